"""Restores the jobs of an earlier process: ended jobs can be queried, the others are queued again in their old order."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from impasto_server.domain.events import Ended
from impasto_server.domain.job import Job, JobState
from impasto_server.jobs import lifecycle
from impasto_server.jobs.admission import Admission
from impasto_server.jobs.journal import Journal
from impasto_server.jobs.runtime import Runtime
from impasto_server.jobs.table import JobTable
from impasto_server.observability.logs import about
from impasto_server.store.base import JobStore, Restored

logger = logging.getLogger(__name__)


def restore(table: JobTable, store: JobStore, admission: Admission) -> list[Job]:
    """Put every stored job into the table, and remove stray checkpoints. Return the jobs."""
    jobs = list(_restore_all(table, store, admission))
    table.drop_stray_checkpoints()
    return jobs


def _restore_all(table: JobTable, store: JobStore, admission: Admission) -> Iterator[Job]:
    own_numbers: Counter[str] = Counter()
    for restored in store.restore():
        job = restored.job
        if not job.own_number:  # stored by a version without own numbers
            job = replace(job, own_number=own_numbers[job.owner] + 1)
            store.put(job)
        own_numbers[job.owner] = max(own_numbers[job.owner], job.own_number)
        age = max(0.0, time.time() - job.created)
        journal = Journal(restored.events, restored.told if restored.closed else None)
        runtime = Runtime(time.monotonic() - age, journal, admitted=True)
        table.add(job.job_id, runtime)
        if job.state.ended:
            _close(table, job, restored, runtime)
        elif restored.lost is not None:
            job = table.change(job.job_id, lifecycle.Failed(restored.lost))
        else:
            admission.book(job, -math.inf)
            job = table.change(job.job_id, lifecycle.Restored())
            table.set_alarm(job)
            if job.state is JobState.QUEUED:
                logger.info(
                    "job %s waits again after a restart, and resumes from its checkpoint, if there is one; it was at step %d",
                    job.job_id,
                    job.step,
                    extra=about(job),
                )
        yield job


def _close(table: JobTable, job: Job, restored: Restored, runtime: Runtime) -> None:
    if not restored.closed:  # the process died between the record and the event
        table.tell(job.job_id, Ended())
    runtime.ended.set()
