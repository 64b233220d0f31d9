"""Load tests for jobs that take from milliseconds to minutes: see docs/howto/load-testing.md. Needs ``impasto[load]``."""

from impasto.load.arrivals import Stage, exactly, offsets, stages, trace
from impasto.load.gates import Slo
from impasto.load.measures import Report, joined, load_report, summarize
from impasto.load.page import page
from impasto.load.records import Record
from impasto.load.runner import Plan, Stop, run
from impasto.load.target import ServiceTarget
from impasto.load.workload import Entry, Workload, WorkloadError, read_workload

__all__ = [
    "Entry",
    "Plan",
    "Record",
    "Report",
    "ServiceTarget",
    "Slo",
    "Stage",
    "Stop",
    "Workload",
    "WorkloadError",
    "exactly",
    "joined",
    "load_report",
    "offsets",
    "page",
    "read_workload",
    "run",
    "stages",
    "summarize",
    "trace",
]
