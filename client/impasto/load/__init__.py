"""Load tests for jobs that last from moments to minutes: see docs/LOAD-TESTING.md. Needs ``impasto[load]``."""

from impasto.load.arrivals import Stage, offsets
from impasto.load.measures import Report, Slo, summarize
from impasto.load.records import Record
from impasto.load.runner import Plan, run
from impasto.load.target import ServiceTarget
from impasto.load.workload import Entry, Workload

__all__ = ["Entry", "Plan", "Record", "Report", "ServiceTarget", "Slo", "Stage", "Workload", "offsets", "run", "summarize"]
