"""The waiting jobs: their order, and for each kind of job the workers that may have room for it."""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from impasto_server.scheduling.fleet import Entry, Worker
from impasto_server.scheduling.tickets import Demand, Place, Ticket


@dataclass(eq=False, slots=True)
class Kind:
    """Waiting jobs with the same answer to the question whether a worker has room for them.

    Attributes:
        ticket: One of them.
        jobs: How many of them wait.
        perhaps: A superset of the workers with room. A worker is taken out when it is found to have none, and put back when
            it gains room: each change of a worker costs one check per kind, however many workers there are.
    """

    ticket: Ticket
    jobs: int = 0
    perhaps: set[Worker] = field(default_factory=set)

    def fits_somewhere(self) -> bool:
        """Whether a worker has room. Takes out the workers without room that it meets."""
        while self.perhaps:
            worker = next(iter(self.perhaps))
            if worker.takes(self.ticket):
                return True
            self.perhaps.discard(worker)
        return False


_Key = tuple[Hashable, Demand, bool]


class WaitingJobs:
    """Waiting jobs in the order in which they will start.

    Attributes:
        order: Place and id of each.
        entries: Each by its id.
        kinds: Kind of each by its id.
        levels: Places by priority, in order.
    """

    def __init__(self) -> None:
        self.order: list[tuple[Place, str]] = []
        self.entries: dict[str, Entry] = {}
        self.levels: dict[int, list[Place]] = {}
        self.kinds: dict[str, Kind] = {}
        self._by_key: dict[_Key, Kind] = {}

    def hopeful(self) -> set[Kind]:
        """Return the kinds that a worker has room for."""
        return {kind for kind in self._by_key.values() if kind.perhaps and kind.fits_somewhere()}

    def add(self, entry: Entry, roomy: Iterable[Worker]) -> None:
        """Add a job.

        Args:
            entry: The job.
            roomy: Workers that may have room.
        """
        ticket = entry.ticket
        key = (ticket.shape, ticket.demand, ticket.alone)
        kind = self._by_key.get(key)
        if kind is None:
            held = ticket.demand.held
            kind = self._by_key[key] = Kind(ticket, 0, {worker for worker in roomy if worker.slack >= held})
        kind.jobs += 1
        self.kinds[ticket.job_id] = kind
        self.entries[ticket.job_id] = entry
        bisect.insort(self.order, (entry.place, ticket.job_id))
        bisect.insort(self.levels.setdefault(ticket.priority, []), entry.place)

    def take(self, job_id: str) -> Entry | None:
        """Remove a job and return it; None if it does not wait."""
        entry = self.entries.pop(job_id, None)
        if entry is None:
            return None
        ticket = entry.ticket
        del self.order[bisect.bisect_left(self.order, (entry.place, job_id))]
        places = self.levels[ticket.priority]
        del places[bisect.bisect_left(places, entry.place)]
        if not places:
            del self.levels[ticket.priority]
        kind = self.kinds.pop(job_id)
        kind.jobs -= 1
        if not kind.jobs:
            del self._by_key[ticket.shape, ticket.demand, ticket.alone]
        return entry

    def position(self, job_id: str) -> int:
        """Return how many jobs come before this one; 0 if it does not wait."""
        entry = self.entries.get(job_id)
        return bisect.bisect_left(self.order, (entry.place, job_id)) if entry else 0

    def gained(self, worker: Worker) -> None:
        """Record that a worker has more room than before."""
        for kind in self._by_key.values():
            kind.perhaps.add(worker)

    def lost(self, worker: Worker) -> None:
        """Forget a worker."""
        for kind in self._by_key.values():
            kind.perhaps.discard(worker)
