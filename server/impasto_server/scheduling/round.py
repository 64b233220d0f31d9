"""One round of decisions: walks over the waiting jobs in order, and ends as soon as no further one can start or preempt."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator

from impasto_server.scheduling.fleet import Entry, Fleet, Worker
from impasto_server.scheduling.tickets import Assignment, Decision, Place, Preemption, Ticket
from impasto_server.scheduling.waiting import Kind, WaitingJobs

FEW = 32
"""A kind with at most this many candidates looks at each; with more, at the workers from the least loaded."""
Load = tuple[int, str]


class Round:
    """Makes decisions once, and carries them out in the books.

    A job without room closes one worker to all later jobs, even if nothing starts there now. So a job can be skipped only
    when no later job can start or preempt: when no kind fits anywhere (room only shrinks during a round), and no later job is
    above a running one both in priority and in order.

    Args:
        waiting: The waiting jobs.
        fleet: The workers.
    """

    def __init__(self, waiting: WaitingJobs, fleet: Fleet) -> None:
        self._waiting, self._fleet = waiting, fleet
        self._closed: set[Worker] = set()
        self._load: list[Load] = []
        """Load of the workers that are not closed, in order."""
        self._losing: list[Worker] = []
        """Workers with leaving jobs when the round began; one that gets some during the round is closed."""
        self._roomy = 0
        """Number of workers with a free slot that are not closed."""
        self._hopeful: set[Kind] = set()
        """Kinds that may fit on a worker that is not closed."""
        self._horizon: Place | None = None
        """Last place of a waiting job that could preempt a running one when the round began; later it is no other."""

    def make(self) -> list[Decision]:
        """Return the decisions."""
        self._roomy = len(self._fleet.roomy)
        if self._roomy:
            self._hopeful = self._waiting.hopeful()
        self._horizon = self._last_that_could_preempt()
        if not self._hopeful and self._horizon is None:
            return []
        self._load = list(self._fleet.load)
        self._losing = self._fleet.losing()
        decisions: list[Decision] = []
        for place, job_id in list(self._waiting.order):
            if self._nothing_left(place):
                break
            worker = self._place(job_id)
            if worker is not None:
                decisions.append(Assignment(job_id, worker.name))
            else:
                decisions += self._reserve(self._waiting.entries[job_id])
        return decisions

    def _nothing_left(self, place: Place) -> bool:
        """Whether neither the job at a place nor a later one can start or preempt."""
        if not self._roomy:
            self._hopeful.clear()
        return not self._load or (not self._hopeful and (self._horizon is None or place > self._horizon))

    def _place(self, job_id: str) -> Worker | None:
        """Start a job where there is room; return the worker, or None if there is none."""
        kind = self._waiting.kinds[job_id]
        if kind not in self._hopeful:
            return None
        worker = self._roomiest(kind, self._waiting.entries[job_id].ticket)
        if worker is None:
            self._hopeful.discard(kind)  # room only shrinks during a round
        else:
            self._start(worker, job_id)
            if not kind.jobs:
                self._hopeful.discard(kind)
        return worker

    def _last_that_could_preempt(self) -> Place | None:
        """Return the last place of a waiting job that could preempt a running one; None if none could."""
        found: Place | None = None
        for level, places in self._waiting.levels.items():
            latest = self._latest_below(level)
            if latest is not None and (count := bisect.bisect_left(places, latest)):
                found = max(found or places[count - 1], places[count - 1])
        return found

    def _latest_below(self, priority: int) -> Place | None:
        """Return the last place of the running jobs of lower priority that stay."""
        return max((ranked[-1][0] for level, ranked in self._fleet.levels.items() if level < priority), default=None)

    def _start(self, worker: Worker, job_id: str) -> None:
        before = (worker.pixels, worker.name)
        entry = self._waiting.take(job_id)
        assert entry is not None  # noqa: S101 - it was in the order
        self._fleet.put(worker, entry)
        del self._load[bisect.bisect_left(self._load, before)]
        bisect.insort(self._load, (worker.pixels, worker.name))
        self._roomy -= not worker.roomy

    def _close(self, worker: Worker) -> None:
        self._closed.add(worker)
        self._roomy -= worker.roomy
        del self._load[bisect.bisect_left(self._load, (worker.pixels, worker.name))]

    def _roomiest(self, kind: Kind, ticket: Ticket) -> Worker | None:
        """Return the least loaded worker with room. A worker that already runs this shape may have nearly this much more load.

        An idle worker is better than sharing another's passes.
        """
        candidates = kind.perhaps - self._closed
        few = len(candidates) <= FEW
        best: tuple[tuple[int, int, str], Worker] | None = None
        for worker in candidates if few else self._least_loaded():
            if not few and best is not None and worker.pixels - ticket.pixels > best[0][0]:
                break  # neither it nor a later one is better, even if it runs this shape
            if worker not in candidates:
                continue
            load = (worker.pixels - (ticket.pixels if worker.shares(ticket.shape) else 0), worker.pixels, worker.name)
            if best is not None and load >= best[0]:
                continue
            if worker.takes(ticket):
                best = load, worker
            else:
                kind.perhaps.discard(worker)
        return best[1] if best else None

    def _least_loaded(self) -> Iterator[Worker]:
        """Yield the open workers, the least loaded first. Nothing may start meanwhile."""
        return (self._fleet.workers[name] for _, name in self._load)

    def _reserve(self, entry: Entry) -> list[Decision]:
        """Close a worker, which is kept free for a job without room, and ask jobs to leave it if that is needed."""
        ticket = entry.ticket
        for worker in self._losing:
            if worker not in self._closed and worker.able(ticket) and worker.takes_without(ticket, worker.leaving):
                self._close(worker)
                return []
        chosen: Worker | None
        victims: list[str]
        victims, chosen = self._fewest_victims(entry) if self._horizon and entry.place <= self._horizon else ([], None)
        if chosen is None:
            chosen = next((worker for worker in self._least_loaded() if worker.able(ticket)), None)
        if chosen is None:
            return []
        self._close(chosen)
        for victim in victims:
            self._fleet.leave(chosen, victim)
        return [Preemption(victim, chosen.name) for victim in victims]

    def _fewest_victims(self, entry: Entry) -> tuple[list[str], Worker | None]:
        """Return the fewest jobs whose leaving makes room on a worker, and the worker, the first by name."""
        found: tuple[list[str], Worker | None] = [], None
        for worker in self._with_lower(entry):
            if worker in self._closed or not worker.able(entry.ticket):
                continue
            victims = _victims(entry, worker)
            if victims and (found[1] is None or len(victims) < len(found[0])):
                found = victims, worker
                if len(victims) == 1:
                    break
        return found

    def _with_lower(self, entry: Entry) -> list[Worker]:
        """Return the workers, by name, with jobs that may have to leave for another."""
        names: set[str] = set()
        for level, ranked in self._fleet.levels.items():
            if level < entry.ticket.priority:
                after = bisect.bisect_right(ranked, (entry.place, entry.ticket.job_id))
                names.update(self._fleet.places[job_id].name for _, job_id in itertools.islice(ranked, after, None))
        return [self._fleet.workers[name] for name in sorted(names)]


def _victims(entry: Entry, worker: Worker) -> list[str]:
    """Return the fewest jobs whose leaving makes room, last in order first; none if that is impossible."""
    ticket = entry.ticket
    lower = [
        (other.place, job_id)
        for job_id, other in worker.running.items()
        if not other.leaving and other.ticket.priority < ticket.priority and other.place > entry.place
    ]
    gone = set(worker.leaving)
    if not worker.takes_without(ticket, gone | {job_id for _, job_id in lower}):
        return []
    victims: list[str] = []
    for _, job_id in sorted(lower, reverse=True):
        victims.append(job_id)
        gone.add(job_id)
        if worker.takes_without(ticket, gone):
            break
    return list(_needed(ticket, worker, victims))


def _needed(ticket: Ticket, worker: Worker, victims: list[str]) -> Iterator[str]:
    """Yield the victims that are needed to make room; an early small one may turn out to be unnecessary."""
    kept = list(victims)
    for victim in victims:
        others = [job_id for job_id in kept if job_id != victim]
        if worker.takes_without(ticket, {*worker.leaving, *others}):
            kept = others
        else:
            yield victim
