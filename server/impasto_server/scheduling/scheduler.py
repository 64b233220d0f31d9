"""Decides which job runs where. Pure: no torch, no clock of its own, no asyncio; it is simulated over millions of steps.

- **Order**: priority, then age, in one number: a level of priority is worth a number of seconds of age. The number never
  changes while a job waits, so a job that waits long enough comes first, and no job starves.
- **Room**: a worker accepts a job if it has a free slot and its memory budget holds what its jobs keep plus what its largest
  pass needs (:func:`~impasto_server.scheduling.tickets.memory`).
- **No overtaking of large jobs**: one worker is kept free for the first job that fits nowhere; later jobs go to the other
  workers only.
- **Preemption**: for a job of higher priority, running jobs of lower priority that come after it in the order are asked to
  leave. They wait again at their old place; the caller keeps their state.
- **Suspects**: a job that ran on a worker that died runs alone from then on, so that a job that kills its workers does not
  repeatedly interrupt others. Jobs of a worker whose host was lost are no suspects.

The books are kept in :mod:`~impasto_server.scheduling.fleet` and :mod:`~impasto_server.scheduling.waiting`, the decisions are
made in :mod:`~impasto_server.scheduling.round`. The tests compare every decision with an implementation without any sums or
indices (``tests/unit/server/scheduling/reference.py``).
"""

from __future__ import annotations

from dataclasses import replace

from impasto_server.scheduling.fleet import Entry, Fleet
from impasto_server.scheduling.round import Round
from impasto_server.scheduling.tickets import Assignment, Capacity, Decision, Demand, Preemption, Ticket, memory
from impasto_server.scheduling.waiting import WaitingJobs

__all__ = ["AGING_S", "Assignment", "Capacity", "Decision", "Demand", "Preemption", "Scheduler", "Ticket", "memory"]

AGING_S = 60.0
"""Seconds of age that a level of priority is worth."""


class Scheduler:
    """Order, placement and preemption.

    Args:
        aging_s: Seconds of age that a level of priority is worth.
    """

    def __init__(self, aging_s: float = AGING_S) -> None:
        self._aging_s = aging_s
        self._submitted = 0
        self._waiting = WaitingJobs()
        self._fleet = Fleet()
        self._max_memory: dict[str, int | None] = {}
        """Most memory that each worker has had, which its device could have again; None for no limit."""

    @property
    def queued(self) -> int:
        """Number of waiting jobs."""
        return len(self._waiting.entries)

    @property
    def running(self) -> int:
        """Number of running jobs."""
        return len(self._fleet.places)

    def __contains__(self, job_id: str) -> bool:
        """Whether a job waits or runs."""
        return job_id in self._waiting.entries or job_id in self._fleet.places

    def worker_of(self, job_id: str) -> str | None:
        """Return the worker that a job runs on; None if it does not run."""
        worker = self._fleet.places.get(job_id)
        return worker.name if worker else None

    def waits(self, job_id: str) -> bool:
        """Whether a job waits."""
        return job_id in self._waiting.entries

    def waiting(self) -> list[str]:
        """Return the waiting jobs, in the order in which they will start."""
        return [job_id for _, job_id in self._waiting.order]

    def running_on(self) -> dict[str, int]:
        """Return how many jobs run on each worker."""
        return {name: len(worker.running) for name, worker in self._fleet.workers.items()}

    def submit(self, ticket: Ticket) -> None:
        """Queue a job. A job that already waits or runs does not change."""
        if ticket.job_id not in self:
            self._submitted += 1
            self._wait(Entry(ticket, (ticket.arrived - ticket.priority * self._aging_s, self._submitted)))

    def could_hold(self, ticket: Ticket) -> bool:
        """Whether a current worker could hold a job if it were empty and its device as free as it ever was.

        True if there is no worker.
        """
        needed = ticket.demand.held + ticket.demand.passing
        most = (self._max_memory[name] for name in self._fleet.workers)
        return not self._fleet.workers or any(limit is None or needed <= limit for limit in most)

    def fits_now(self, ticket: Ticket) -> bool:
        """Whether a worker's memory has room beside its jobs for work without a slot; True if there is no worker."""
        workers = self._fleet.workers.values()
        return not workers or any(worker.remembers(ticket) for worker in workers)

    def hopeless(self) -> tuple[str, ...]:
        """Return the waiting jobs that no current worker could hold, even if it were empty."""
        capacities = {worker.capacity for worker in self._fleet.workers.values() if worker.capacity.slots > 0}
        if any(capacity.memory is None for capacity in capacities):
            return ()
        most = max((capacity.memory or 0 for capacity in capacities), default=-1)
        entries = self._waiting.entries
        demands = ((job_id, entries[job_id].ticket.demand) for _, job_id in self._waiting.order)
        return tuple(job_id for job_id, demand in demands if demand.held + demand.passing > most)

    def position(self, job_id: str) -> int:
        """Return how many waiting jobs come before this one; 0 if it does not wait."""
        return self._waiting.position(job_id)

    def remove(self, job_id: str) -> None:
        """Remove a job: it ended, or need not start. Unknown jobs are ignored."""
        if self._waiting.take(job_id) is None:
            self._stop(job_id)

    def worker_ready(self, name: str, capacity: Capacity) -> None:
        """Add a worker that is ready. It is empty: what ran on one of this name is forgotten."""
        old = self._fleet.workers.get(name)
        if old is not None:
            self._waiting.lost(old)
        worker = self._fleet.add(name, capacity) if old is None else self._fleet.replace(old, capacity)
        self._waiting.gained(worker)
        self._remember(name, capacity)

    def resize(self, name: str, capacity: Capacity) -> None:
        """Change the capacity of a worker; its jobs stay. Unknown workers are ignored."""
        worker = self._fleet.workers.get(name)
        if worker is not None:
            self._fleet.resize(worker, capacity)
            self._waiting.gained(worker)
            self._remember(name, capacity)

    def _remember(self, name: str, capacity: Capacity) -> None:
        known = self._max_memory.get(name, 0)
        self._max_memory[name] = None if capacity.memory is None or known is None else max(known, capacity.memory)

    def runs_on(self, name: str) -> int:
        """Return how many jobs run on a worker."""
        worker = self._fleet.workers.get(name)
        return len(worker.running) if worker else 0

    def jobs_on(self, name: str) -> tuple[str, ...]:
        """Return the jobs that run on a worker."""
        worker = self._fleet.workers.get(name)
        return tuple(worker.running) if worker else ()

    def worker_lost(self, name: str, *, suspects: bool = True) -> tuple[str, ...]:
        """Remove a lost worker: its jobs wait again at their old places. Return them.

        Args:
            name: Name of the worker.
            suspects: Whether its jobs may be the cause, and so run alone from now on.
        """
        worker = self._fleet.workers.get(name)
        if worker is None:
            return ()
        self._waiting.lost(worker)
        entries = self._fleet.drop(worker)
        for entry in entries:
            ticket = replace(entry.ticket, alone=True) if suspects else entry.ticket
            self._wait(Entry(ticket, entry.place))
        return tuple(entry.ticket.job_id for entry in entries)

    def parked(self, job_id: str) -> bool:
        """Queue a job that has left its worker at its old place again; return False if it did not run."""
        entry = self._stop(job_id)
        if entry is not None:
            self._wait(Entry(entry.ticket, entry.place))
        return entry is not None

    def decide(self) -> list[Decision]:
        """Return which waiting jobs start now, and where, and which running jobs must make room for others.

        An assigned job counts as running from here on, a preempted one until :meth:`parked` or :meth:`remove`.
        """
        return Round(self._waiting, self._fleet).make()

    def _wait(self, entry: Entry) -> None:
        self._waiting.add(entry, self._fleet.roomy)

    def _stop(self, job_id: str) -> Entry | None:
        """Remove a running job from its worker, which gains room; None if it does not run."""
        taken = self._fleet.take(job_id)
        if taken is None:
            return None
        worker, entry = taken
        self._waiting.gained(worker)
        return entry
