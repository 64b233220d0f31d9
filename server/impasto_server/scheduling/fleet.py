"""The workers and what runs on them, with sums that are kept up to date, so that no question walks over all jobs."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Hashable
from dataclasses import dataclass

from impasto_server.scheduling.tickets import Capacity, Place, Ticket, memory


@dataclass(eq=False, slots=True)
class Entry:
    """A job that waits or runs.

    Attributes:
        ticket: The job.
        place: Its place in the order, which it keeps for its life.
        leaving: Whether it was asked to leave its worker.
    """

    ticket: Ticket
    place: Place
    leaving: bool = False


class Worker:
    """One worker and its jobs.

    Args:
        name: Its name.
        capacity: What it can run.
        number: Orders the workers by when they were first ready.

    Attributes:
        running: Its jobs by id.
        leaving: Ids of those that were asked to leave.
        pixels: Pixels of all its jobs.
        slack: Bytes that a job may hold at most to have room, beside the pass of its shape; infinite without a limit.
    """

    __slots__ = (
        "_alone",
        "_held",
        "_largest",
        "_passes",
        "_sums",
        "capacity",
        "leaving",
        "name",
        "number",
        "pixels",
        "running",
        "slack",
    )

    def __init__(self, name: str, capacity: Capacity, number: int) -> None:
        self.name, self.capacity, self.number = name, capacity, number
        self.running: dict[str, Entry] = {}
        self.leaving: set[str] = set()
        self.pixels = 0
        self._held = 0
        self._alone = 0
        self._passes: dict[Hashable, list[int]] = {}
        self._sums: dict[Hashable, int] = {}
        self._largest = 0
        self.slack: float = 0.0
        self._measure()

    @property
    def roomy(self) -> bool:
        """Whether it has a free slot, and no job that must run alone."""
        return len(self.running) < self.capacity.slots and not self._alone

    def resize(self, capacity: Capacity) -> None:
        """Change the capacity; the jobs stay."""
        self.capacity = capacity
        self._sums = {shape: sum(sizes[-capacity.group :]) for shape, sizes in self._passes.items()}
        self._measure()

    def add(self, entry: Entry) -> None:
        """Add a job."""
        ticket = entry.ticket
        self.running[ticket.job_id] = entry
        self.pixels += ticket.pixels
        self._held += ticket.demand.held
        self._alone += ticket.alone
        sizes = self._passes.setdefault(ticket.shape, [])
        bisect.insort(sizes, ticket.demand.passing)
        self._sums[ticket.shape] = sum(sizes[-self.capacity.group :])
        self._measure()

    def remove(self, job_id: str) -> Entry:
        """Remove a job and return it."""
        entry = self.running.pop(job_id)
        self.leaving.discard(job_id)
        ticket = entry.ticket
        self.pixels -= ticket.pixels
        self._held -= ticket.demand.held
        self._alone -= ticket.alone
        sizes = self._passes[ticket.shape]
        sizes.remove(ticket.demand.passing)
        if sizes:
            self._sums[ticket.shape] = sum(sizes[-self.capacity.group :])
        else:
            del self._passes[ticket.shape], self._sums[ticket.shape]
        self._measure()
        return entry

    def _measure(self) -> None:
        self._largest = max(self._sums.values(), default=0)
        limit = self.capacity.memory
        self.slack = math.inf if limit is None else limit - self._held - self._largest

    def takes(self, ticket: Ticket) -> bool:
        """Whether there is room."""
        if len(self.running) >= self.capacity.slots or (self.running and (ticket.alone or self._alone)):
            return False
        return ticket.demand.held <= self.slack and self.remembers(ticket)

    def remembers(self, ticket: Ticket) -> bool:
        """Whether the memory has room beside the jobs, whatever the slots."""
        limit = self.capacity.memory
        if limit is None:
            return True
        sizes = self._passes.get(ticket.shape)
        largest = ticket.demand.passing
        if sizes:
            largest = sum(sorted((*sizes, largest), reverse=True)[: self.capacity.group])
        return self._held + ticket.demand.held + max(largest, self._largest) <= limit

    def able(self, ticket: Ticket) -> bool:
        """Whether there would be room if it were empty."""
        limit = self.capacity.memory
        return self.capacity.slots > 0 and (limit is None or ticket.demand.held + ticket.demand.passing <= limit)

    def takes_without(self, ticket: Ticket, gone: Collection[str]) -> bool:
        """Whether there would be room if some jobs were gone."""
        others = [entry.ticket for job_id, entry in self.running.items() if job_id not in gone]
        if len(others) >= self.capacity.slots or (others and (ticket.alone or any(other.alone for other in others))):
            return False
        return self.capacity.memory is None or memory([*others, ticket], self.capacity.group) <= self.capacity.memory

    def shares(self, shape: Hashable) -> bool:
        """Whether a job of this shape runs."""
        return shape in self._passes


class Fleet:
    """All workers, and where jobs run.

    Attributes:
        workers: By name.
        roomy: Workers with a free slot and no job that must run alone.
        load: Pixels and name of each worker, in order.
        places: The worker of each running job.
        levels: Places and ids of the running jobs that stay, by priority, in order.
    """

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.roomy: set[Worker] = set()
        self.load: list[tuple[int, str]] = []
        self.places: dict[str, Worker] = {}
        self.levels: dict[int, list[tuple[Place, str]]] = {}
        self._leaving: set[Worker] = set()
        self._numbers = 0

    def add(self, name: str, capacity: Capacity) -> Worker:
        """Add an empty worker. One of this name that is replaced must have been dropped, but keeps its number."""
        self._numbers += 1
        worker = self.workers[name] = Worker(name, capacity, self._numbers)
        self._list(worker)
        return worker

    def replace(self, old: Worker, capacity: Capacity) -> Worker:
        """Replace a worker by an empty one in its position; its jobs are forgotten."""
        self._clear(old)
        worker = self.workers[old.name] = Worker(old.name, capacity, old.number)
        self._list(worker)
        return worker

    def drop(self, worker: Worker) -> list[Entry]:
        """Remove a worker; return its jobs."""
        self._clear(worker)
        del self.workers[worker.name]
        return list(worker.running.values())

    def _clear(self, worker: Worker) -> None:
        self._unlist(worker)
        self.roomy.discard(worker)
        self._leaving.discard(worker)
        for job_id, entry in worker.running.items():
            del self.places[job_id]
            if not entry.leaving:
                self._unrank(entry)

    def resize(self, worker: Worker, capacity: Capacity) -> None:
        """Change the capacity of a worker."""
        worker.resize(capacity)
        self._note_room(worker)

    def put(self, worker: Worker, entry: Entry) -> None:
        """Run a job on a worker."""
        self._unlist(worker)
        worker.add(entry)
        self._list(worker)
        self.places[entry.ticket.job_id] = worker
        bisect.insort(self.levels.setdefault(entry.ticket.priority, []), (entry.place, entry.ticket.job_id))

    def take(self, job_id: str) -> tuple[Worker, Entry] | None:
        """Remove a job from its worker; return both, or None if it does not run."""
        worker = self.places.pop(job_id, None)
        if worker is None:
            return None
        self._unlist(worker)
        entry = worker.remove(job_id)
        self._list(worker)
        if not entry.leaving:
            self._unrank(entry)
        elif not worker.leaving:
            self._leaving.discard(worker)
        return worker, entry

    def leave(self, worker: Worker, job_id: str) -> None:
        """Record that a job was asked to leave."""
        entry = worker.running[job_id]
        entry.leaving = True
        worker.leaving.add(job_id)
        self._leaving.add(worker)
        self._unrank(entry)

    def losing(self) -> list[Worker]:
        """Return the workers with jobs that were asked to leave, in the order in which they were first ready."""
        return sorted(self._leaving, key=lambda worker: worker.number)

    def _list(self, worker: Worker) -> None:
        bisect.insort(self.load, (worker.pixels, worker.name))
        self._note_room(worker)

    def _unlist(self, worker: Worker) -> None:
        del self.load[bisect.bisect_left(self.load, (worker.pixels, worker.name))]

    def _note_room(self, worker: Worker) -> None:
        if worker.roomy:
            self.roomy.add(worker)
        else:
            self.roomy.discard(worker)

    def _unrank(self, entry: Entry) -> None:
        ranked = self.levels[entry.ticket.priority]
        del ranked[bisect.bisect_left(ranked, (entry.place, entry.ticket.job_id))]
        if not ranked:
            del self.levels[entry.ticket.priority]
