"""The scheduler without any sums or indices: what :mod:`impasto_server.scheduling.scheduler` must decide, in every case.

This was the implementation until 2026-11-30. Every question walks over all jobs and workers, so that it is plainly right.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from impasto_server.scheduling.tickets import Assignment, Capacity, Decision, Place, Preemption, Ticket, memory


@dataclass
class _Entry:
    ticket: Ticket
    place: Place
    leaving: bool = False


@dataclass
class _Worker:
    name: str
    capacity: Capacity
    running: dict[str, _Entry] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        return sum(entry.ticket.pixels for entry in self.running.values())

    def takes(self, ticket: Ticket, without: Iterable[str] = ()) -> bool:
        """Whether there is room, assuming that some jobs are gone."""
        gone = set(without)
        others = [entry.ticket for job_id, entry in self.running.items() if job_id not in gone]
        if len(others) >= self.capacity.slots or (others and (ticket.alone or any(other.alone for other in others))):
            return False
        return self.capacity.memory is None or memory([*others, ticket], self.capacity.group) <= self.capacity.memory

    def shares(self, ticket: Ticket) -> bool:
        return any(entry.ticket.shape == ticket.shape for entry in self.running.values())

    def leaving(self) -> list[str]:
        return [job_id for job_id, entry in self.running.items() if entry.leaving]


class ReferenceScheduler:
    """Order, placement and preemption.

    Args:
        aging_s: Seconds of age that a level of priority is worth.
    """

    def __init__(self, aging_s: float = 60.0) -> None:
        self._aging_s = aging_s
        self._submitted = 0
        self._order: list[tuple[Place, str]] = []
        self._waiting: dict[str, _Entry] = {}
        self._workers: dict[str, _Worker] = {}
        self._max_memory: dict[str, int | None] = {}
        """Most memory that each worker has had, which its device could have again; None for no limit."""

    @property
    def queued(self) -> int:
        """Number of waiting jobs."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of running jobs."""
        return sum(len(worker.running) for worker in self._workers.values())

    def __contains__(self, job_id: str) -> bool:
        """Whether a job waits or runs."""
        return job_id in self._waiting or self.worker_of(job_id) is not None

    def worker_of(self, job_id: str) -> str | None:
        """Return the worker that a job runs on; None if it does not run."""
        return next((name for name, worker in self._workers.items() if job_id in worker.running), None)

    def waits(self, job_id: str) -> bool:
        """Whether a job waits."""
        return job_id in self._waiting

    def waiting(self) -> list[str]:
        """Return the waiting jobs, in the order in which they will start."""
        return [job_id for _, job_id in self._order]

    def running_on(self) -> dict[str, int]:
        """Return how many jobs run on each worker."""
        return {name: len(worker.running) for name, worker in self._workers.items()}

    def submit(self, ticket: Ticket) -> None:
        """Queue a job. A job that already waits or runs does not change."""
        if ticket.job_id not in self:
            self._submitted += 1
            self._wait(_Entry(ticket, (ticket.arrived - ticket.priority * self._aging_s, self._submitted)))

    def could_hold(self, ticket: Ticket) -> bool:
        """Whether a current worker could hold a job if it were empty and its device as free as it ever was.

        True if there is no worker.
        """
        for worker in self._workers.values():
            most = self._max_memory[worker.name]
            if most is None or memory([ticket], worker.capacity.group) <= most:
                return True
        return not self._workers

    def fits_now(self, ticket: Ticket) -> bool:
        """Whether a worker's memory has room beside its jobs for work without a slot; True if there is no worker."""
        workers = self._workers.values()
        return not workers or any(
            worker.capacity.memory is None
            or memory([*(entry.ticket for entry in worker.running.values()), ticket], worker.capacity.group)
            <= worker.capacity.memory
            for worker in workers
        )

    def hopeless(self) -> tuple[str, ...]:
        """Return the waiting jobs that no current worker could hold, even if it were empty."""
        workers = self._workers.values()
        return tuple(
            job_id
            for _, job_id in self._order
            if not any(worker.takes(self._waiting[job_id].ticket, without=worker.running) for worker in workers)
        )

    def position(self, job_id: str) -> int:
        """Return how many waiting jobs come before this one; 0 if it does not wait."""
        entry = self._waiting.get(job_id)
        return bisect.bisect_left(self._order, (entry.place, job_id)) if entry else 0

    def remove(self, job_id: str) -> None:
        """Remove a job: it ended, or need not start. Unknown jobs are ignored."""
        self._take(job_id)
        for worker in self._workers.values():
            worker.running.pop(job_id, None)

    def worker_ready(self, name: str, capacity: Capacity) -> None:
        """Add a worker that is ready."""
        self._workers[name] = _Worker(name, capacity)
        self._remember(name, capacity)

    def resize(self, name: str, capacity: Capacity) -> None:
        """Change the capacity of a worker; its jobs stay. Unknown workers are ignored."""
        if name in self._workers:
            self._workers[name].capacity = capacity
            self._remember(name, capacity)

    def _remember(self, name: str, capacity: Capacity) -> None:
        known = self._max_memory.get(name, 0)
        self._max_memory[name] = None if capacity.memory is None or known is None else max(known, capacity.memory)

    def runs_on(self, name: str) -> int:
        """Return how many jobs run on a worker."""
        worker = self._workers.get(name)
        return len(worker.running) if worker else 0

    def worker_lost(self, name: str, *, suspects: bool = True) -> tuple[str, ...]:
        """Remove a lost worker: its jobs wait again at their old places, and suspects run alone from now on. Return them."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return ()
        for entry in worker.running.values():
            self._wait(_Entry(replace(entry.ticket, alone=True) if suspects else entry.ticket, entry.place))
        return tuple(worker.running)

    def parked(self, job_id: str) -> bool:
        """Queue a job that has left its worker at its old place again; return False if it did not run."""
        for worker in self._workers.values():
            if job_id in worker.running:
                entry = worker.running.pop(job_id)
                self._wait(_Entry(entry.ticket, entry.place))
                return True
        return False

    def decide(self) -> list[Decision]:
        """Return which waiting jobs start now, and where, and which running jobs must make room for others.

        An assigned job counts as running from here on, a preempted one until :meth:`parked` or :meth:`remove`.
        """
        decisions: list[Decision] = []
        open_workers = {name: worker for name, worker in self._workers.items() if worker.capacity.slots}
        for _, job_id in list(self._order):
            if not open_workers:
                break
            entry = self._waiting[job_id]
            worker = self._roomiest(entry.ticket, open_workers.values())
            if worker is not None:
                self._take(job_id)
                worker.running[job_id] = entry
                decisions.append(Assignment(job_id, worker.name))
                continue
            worker, victims = self._reserve(entry, open_workers.values())
            if worker is not None:
                del open_workers[worker.name]
                for victim in victims:
                    worker.running[victim].leaving = True
                    decisions.append(Preemption(victim, worker.name))
        return decisions

    def _roomiest(self, ticket: Ticket, workers: Iterable[_Worker]) -> _Worker | None:
        """Return the least loaded worker with room. A worker that already runs this shape may have this much more load."""
        fitting = [worker for worker in workers if worker.takes(ticket)]
        return min(
            fitting, key=lambda w: (w.pixels - (ticket.pixels if w.shares(ticket) else 0), w.pixels, w.name), default=None
        )

    def _reserve(self, entry: _Entry, workers: Iterable[_Worker]) -> tuple[_Worker | None, list[str]]:
        """Return the worker to keep free for a job without room, and the jobs that must leave it."""
        able = [worker for worker in workers if worker.takes(entry.ticket, without=worker.running)]
        for worker in able:
            if worker.takes(entry.ticket, without=worker.leaving()):
                return worker, []
        options = [(victims, worker) for worker in able if (victims := self._victims(entry, worker))]
        if options:
            victims, worker = min(options, key=lambda option: (len(option[0]), option[1].name))
            return worker, victims
        return min(able, key=lambda worker: (worker.pixels, worker.name), default=None), []

    def _victims(self, entry: _Entry, worker: _Worker) -> list[str]:
        """Return the fewest jobs whose leaving makes room, last in order first; none if that is impossible."""
        lower = [
            (other.place, job_id)
            for job_id, other in worker.running.items()
            if not other.leaving and other.ticket.priority < entry.ticket.priority and other.place > entry.place
        ]
        victims: list[str] = []
        for _, job_id in sorted(lower, reverse=True):
            victims.append(job_id)
            if worker.takes(entry.ticket, without=[*worker.leaving(), *victims]):
                return list(self._needed(entry.ticket, worker, victims))
        return []

    @staticmethod
    def _needed(ticket: Ticket, worker: _Worker, victims: list[str]) -> Iterator[str]:
        """Yield the victims that are needed to make room; an early small one may turn out to be unnecessary."""
        kept = list(victims)
        for victim in victims:
            others = [job_id for job_id in kept if job_id != victim]
            if worker.takes(ticket, without=[*worker.leaving(), *others]):
                kept = others
            else:
                yield victim

    def _wait(self, entry: _Entry) -> None:
        self._take(entry.ticket.job_id)
        self._waiting[entry.ticket.job_id] = entry
        bisect.insort(self._order, (entry.place, entry.ticket.job_id))

    def _take(self, job_id: str) -> None:
        entry = self._waiting.pop(job_id, None)
        if entry is not None:
            del self._order[bisect.bisect_left(self._order, (entry.place, job_id))]
