"""The pool of workers: starts them, restarts them, and knows their capacity."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from impasto_engine.architectures import ARCHITECTURES, RANDOM, random_seed, split
from impasto_engine.parameters import Arithmetic, Precision
from impasto_server.config import MIB, ServerConfig
from impasto_server.domain.errors import ServiceError
from impasto_server.domain.job import JobSpec, NetworkDescription
from impasto_server.scheduling.scheduler import Capacity, Demand, Ticket
from impasto_server.workers.memory import FORWARD_SHARE, NETWORK_BYTES, held_bytes
from impasto_server.workers.messages import (
    Alive,
    CannotStart,
    Command,
    Inspect,
    Inspected,
    JobReport,
    PassMeasured,
    Ready,
    Report,
    Together,
)
from impasto_server.workers.process import JoinedHandle, WorkerHandle

logger = logging.getLogger(__name__)

GPU_SLOTS = 16
MAX_QUESTIONS = 4
"""Inspections that are answered at a time: each delays the steps of a worker briefly."""
MEMORY_SHARE = 0.8
"""Share of a device's free memory that its jobs may use."""
MEMORY_CHANGE = 1.1
"""Factor by which an idle device's free memory must change to be recorded."""
SILENCE_S = 15.0
"""A worker that sends nothing for this long is killed; it sends a sign of life every second."""
ASLEEP_S = 5.0
"""A check that comes this late means that this process was suspended: stopped, or its machine asleep."""
START_S = 300.0
"""A worker that is not ready after this long is killed."""
SLOWEST_TURN_S, TURN_FACTOR = 20.0, 20.0
"""Limit of a worker's round: the first, or the second times the expected time of its jobs' steps, whichever is more."""
RESTART_DELAYS_S = (0.1, 1.0, 5.0)
"""A lost worker is restarted after the first delay; if it is lost again before it was ready, after the next."""
BROKEN_S = 300.0
"""A worker that said that it cannot start is tried again after this long, while others work."""


class Listener(Protocol):
    """Receives the workers' reports."""

    def on_ready(self, name: str) -> None:
        """A worker is ready."""
        ...

    def on_report(self, name: str, report: JobReport) -> None:
        """A worker reported on a job."""
        ...

    def on_reports(self, name: str, reports: Sequence[JobReport]) -> None:
        """A worker sent several reports in one message, those of a job in order."""
        ...

    def on_lost(self, name: str, cause: str, *, blame: bool = True) -> None:
        """A worker died or was killed. Without blame its jobs are not suspected: its host was lost."""
        ...

    def on_draining(self, name: str) -> None:
        """A worker must get no more jobs, and its jobs should continue elsewhere."""
        ...

    def on_memory(self, name: str) -> None:
        """The free memory of an idle worker's device has changed."""
        ...


@dataclass
class WorkerStatus:
    """One worker as GetServerInfo reports it.

    Attributes:
        draining: Whether it gets no more jobs.
        joined: Its handle, if it is on another machine.
        broken: Why it could not start; empty if it has, or may. It is tried again after :data:`BROKEN_S`.
    """

    handle: WorkerHandle
    ready: Ready | None = None
    restarts: int = 0
    failures: int = 0
    started: float = 0.0
    heard: float = 0.0
    busy_s: float = 0.0
    alive: bool = False
    draining: bool = False
    joined: JoinedHandle | None = None
    broken: str = ""


def described(network_id: str) -> NetworkDescription:
    """Return the description of a network that no worker has loaded: everything but the hash of its filters."""
    architecture, weights = split(network_id)
    return NetworkDescription(architecture, weights, "", ARCHITECTURES[architecture].layer_names)


def _arithmetic(precision: Precision, ready: Ready, device: str) -> Arithmetic:
    """Return the arithmetic of a job on a worker, as the engine will choose it."""
    if precision == "auto":
        return ready.arithmetic
    return "float32" if precision == "tf32" and not device.startswith("cuda") else precision


class WorkerPool:
    """Owns the workers. Create it on a running event loop.

    Args:
        config: The server's settings.
        workers: Handles of workers that are not started yet.
    """

    def __init__(
        self,
        config: ServerConfig,
        workers: Sequence[WorkerHandle],
    ) -> None:
        self._config = config
        self._workers = {handle.name: WorkerStatus(handle) for handle in workers}
        self._listener: Listener | None = None
        self._restarts: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._last_look = time.monotonic()
        self._inspections = 0
        self._asking: set[str] = set()
        self._inspected: dict[int, tuple[str, asyncio.Future[Inspected]]] = {}
        self.ready = asyncio.Event()
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def listen(self, listener: Listener) -> None:
        """Set the receiver of the workers' reports; call it before :meth:`start`."""
        self._listener = listener

    @property
    def _receiver(self) -> Listener:
        assert self._listener is not None  # noqa: S101 - see listen
        return self._listener

    @property
    def stopping(self) -> bool:
        """Whether the workers are told to end, since the server stops."""
        return self._stopping

    @property
    def workers(self) -> Collection[WorkerStatus]:
        """All workers."""
        return self._workers.values()

    @property
    def slots(self) -> int:
        """Maximum number of running jobs on all devices together."""
        return sum(self._slots(name) for name in self._workers)

    def _slots(self, name: str) -> int:
        status = self._workers[name]
        return 0 if status.draining else self._config.max_running_jobs or (1 if status.handle.device == "cpu" else GPU_SLOTS)

    @property
    def any_ready(self) -> bool:
        """Whether a worker is ready and may get jobs."""
        return any(status.ready and not status.draining for status in self.workers)

    @property
    def all_ready(self) -> bool:
        """Whether every worker is ready, but those that cannot start."""
        return all(status.ready or status.broken for status in self.workers)

    @property
    def network(self) -> NetworkDescription | None:
        """The loaded network, the default of jobs; every worker has the same."""
        return next((status.ready.network for status in self.workers if status.ready), None)

    def measured(self, name: str) -> tuple[float, Arithmetic] | None:
        """Return the time of a worker's step per pixel, as measured at its start, and its arithmetic; None if not measured."""
        ready = self._workers[name].ready
        return (ready.seconds_per_pixel, ready.arithmetic) if ready and ready.seconds_per_pixel else None

    def gpus(self) -> dict[str, str]:
        """Return the worker on each GPU, by the GPU's UUID."""
        readies = ((status.handle.name, status.ready) for status in self.workers if not status.joined)
        return {ready.uuid: name for name, ready in readies if ready is not None and ready.uuid}

    def processes(self) -> list[tuple[str, int]]:
        """Return the device and process id of each worker that is a process here."""
        pids = ((status.handle.name, getattr(status.handle, "pid", None)) for status in self.workers)
        return [(name, pid) for name, pid in pids if pid is not None]

    def networks(self) -> list[NetworkDescription]:
        """Return every network that jobs can name, the default first; random networks as a pattern."""
        default = self.network
        if default is None:
            return []
        ready = next(status.ready for status in self.workers if status.ready)
        others = [described(name) for name in ready.available if name != default.id]
        drawn = [described(f"{name}:{RANDOM}-SEED") for name in ARCHITECTURES]
        return [default, *others, *drawn]

    def network_id(self, name: str) -> str:
        """Return the full name of a network that a job names, ``ARCHITECTURE:WEIGHTS``; empty means the default.

        Raises:
            ValueError: If no network has that name; the message lists the networks.
        """
        known = [network.id for network in self.networks()]
        if not known:
            if name:
                raise ValueError("no network is ready yet; retry")
            return ""
        if not name or name in known:
            return name or known[0]
        architecture, weights = split(name)
        seed = random_seed(weights)
        if seed is not None:
            return f"{architecture}:{RANDOM}-{seed}"
        if f"{architecture}:{weights}" in known:
            return f"{architecture}:{weights}"
        of_it = [item for item in known if split(item)[0] == architecture and not item.endswith("-SEED")]
        if not weights and of_it:
            return of_it[0]
        raise ValueError(f"there is no network {name!r}; the networks are {', '.join(known)}")

    async def inspect(self, command: Inspect, owner: str = "") -> Inspected:
        """Let a worker compute how filters respond to a picture; one inspection per owner at a time, unless anonymous.

        Raises:
            ServiceError: If no worker is ready, it is lost or fails meanwhile, or the owner has an inspection running.
        """
        if owner and owner in self._asking:
            metadata = {"quota": "questions", "limit": "1", "used": "1"}
            text = "only one feature inspection per client is answered at a time"
            raise ServiceError("QUOTA_EXCEEDED", text, metadata=metadata, retry_s=1.0)
        name = next((name for name, status in self._workers.items() if status.ready), None)
        if name is None:
            raise ServiceError("STARTING", "no worker is ready yet", retry_s=1.0)
        if len(self._inspected) >= MAX_QUESTIONS:
            text = f"{MAX_QUESTIONS} feature inspections are running, which is the limit"
            metadata = {"queued": str(MAX_QUESTIONS), "running": "", "limit": str(MAX_QUESTIONS)}
            raise ServiceError("QUEUE_FULL", text, metadata=metadata, retry_s=2.0)
        self._inspections += 1
        number = self._inspections
        future: asyncio.Future[Inspected] = asyncio.get_running_loop().create_future()
        self._inspected[number] = (name, future)
        self._asking.add(owner)
        try:
            self.send(name, replace(command, number=number))
            found = await future
        finally:
            del self._inspected[number]
            self._asking.discard(owner)
        if found.error:
            raise ServiceError("ENGINE_ERROR", found.error)
        return found

    def capacity(self, name: str) -> Capacity:
        """Return the capacity of a ready worker."""
        ready = self._workers[name].ready
        slots = self._slots(name)
        memory = int(ready.free_bytes * MEMORY_SHARE) if ready and ready.free_bytes is not None else None
        if self._config.max_memory_mib:
            memory = self._config.max_memory_mib * MIB
        return Capacity(slots, memory, ready.group if ready else 1)

    def ticket(self, spec: JobSpec) -> Ticket:
        """Return what the scheduler needs to know about a job, except its id and its arrival."""
        parameters = spec.parameters
        held, models = held_bytes(spec), {}
        arithmetics = set()
        for status in self.workers:
            ready = status.ready
            if ready is None:
                continue
            arithmetic = _arithmetic(parameters.precision, ready, status.handle.device)
            arithmetics.add(arithmetic)
            more = NETWORK_BYTES if parameters.network and parameters.network != ready.network.id else 0
            recorded = self._config.cuda_graphs and status.handle.device != "cpu"
            models[more, arithmetic, recorded, ready.memory.kind(arithmetic)] = ready.memory  # many devices are alike
        demands = []
        for (more, arithmetic, recorded, _), memory in models.items():
            passing = memory.passing_bytes(spec, arithmetic)
            demands.append((held + more + (passing if recorded else 0), passing))  # a recording keeps the memory of its pass
        demand = Demand(*max(demands, key=sum, default=(0, 0)))
        default = self.network
        network = parameters.network or (default.id if default else "")
        # Jobs of equal shape share their passes: by the arithmetic that they use, not by the name that they ask for.
        shape = (spec.height, spec.width, network, parameters.pooling, tuple(sorted(arithmetics)) or parameters.precision)
        return Ticket("", spec.width * spec.height, 0.0, spec.priority, shape, demand)

    def inspection_demand(self, pixels: int, network: str) -> Demand:
        """Return the memory that an inspection needs on a device."""
        ready = next((status.ready for status in self.workers if status.ready), None)
        if ready is None:
            return Demand()
        other = 0 if network in ("", ready.network.id) else NETWORK_BYTES
        return Demand(other, round(FORWARD_SHARE * ready.memory.pass_bytes("float32", pixels)))

    def send(self, name: str, command: Command) -> None:
        """Send a worker a command; it is dropped if there is no such worker."""
        if name in self._workers:
            self._workers[name].handle.send(command)

    def look(self, turn_s: Callable[[str], float | None]) -> None:
        """Kill hung workers: they are restarted, and their jobs resume.

        Args:
            turn_s: Returns the expected time of a worker's round; None if unknown.
        """
        now = time.monotonic()
        if now - self._last_look > ASLEEP_S:  # this process was suspended: reports sent meanwhile are not read yet
            for status in self.workers:
                status.heard = status.started = now
                status.busy_s = 0.0
        self._last_look = now
        for status in self.workers:
            name, silent = status.handle.name, now - status.heard
            if status.ready is None:
                if not status.broken and now - status.started > START_S and not self._restarts:
                    self.kill(name, f"is not ready after {START_S:.0f} s")
                continue
            if silent > SILENCE_S:
                self.kill(name, f"has sent nothing for {silent:.0f} s")
            if silent > SILENCE_S or status.busy_s <= SLOWEST_TURN_S:
                continue
            expected = turn_s(name)
            if status.busy_s > (START_S if expected is None else max(SLOWEST_TURN_S, TURN_FACTOR * expected)):
                self.kill(name, f"has been in one step for {status.busy_s:.0f} s; {expected or 0:.2g} s were expected")

    def kill(self, name: str, why: str) -> None:
        """Kill a hung worker; it is restarted."""
        status = self._workers[name]
        logger.error("worker %s %s: it is killed and restarted", name, why, extra={"device": name})
        status.started = status.heard = time.monotonic()  # only once, however long its exit takes
        status.busy_s = 0.0
        status.handle.kill()

    def has(self, name: str) -> bool:
        """Whether there is a worker of this name."""
        return name in self._workers

    def is_draining(self, name: str) -> bool:
        """Whether a worker gets no more jobs."""
        return name in self._workers and self._workers[name].draining

    def join(self, handle: JoinedHandle) -> None:
        """Add a worker from another machine, and start it."""
        status = WorkerStatus(handle, joined=handle)
        self._workers[handle.name] = status
        self._start(status)

    def leave(self, name: str, cause: str, *, orderly: bool = False) -> None:
        """Remove a worker whose host was lost or has left; its jobs continue elsewhere and are not suspected.

        Args:
            name: The worker.
            cause: Why it has left, for the log.
            orderly: Whether it was meant to leave.
        """
        status = self._workers.pop(name, None)
        if status is None or self._stopping:
            return
        self._note_loss(name, status)
        level = logging.INFO if orderly else logging.WARNING
        logger.log(level, "worker %s on host %s has left: %s", name, status.handle.host, cause, extra={"device": name})
        self._receiver.on_lost(name, cause, blame=False)

    def drain(self, name: str) -> None:
        """Give a worker no more jobs, and let its jobs continue elsewhere."""
        status = self._workers.get(name)
        if status is not None and not status.draining:
            status.draining = True
            logger.info("worker %s is draining", name, extra={"device": name})
            self._receiver.on_draining(name)

    def resume(self, name: str) -> None:
        """Give a draining worker jobs again."""
        status = self._workers.get(name)
        if status is not None and status.draining:
            status.draining = False
            logger.info("worker %s gets jobs again", name, extra={"device": name})
            self._receiver.on_memory(name)

    def start(self) -> None:
        """Start the workers."""
        for status in self.workers:
            self._start(status)

    async def stop(self) -> None:
        """Stop the workers."""
        self._stopping = True
        for task in list(self._restarts):
            task.cancel()
        await asyncio.gather(*(status.handle.stop() for status in list(self.workers)))

    def _start(self, status: WorkerStatus) -> None:
        name = status.handle.name
        status.started = status.heard = time.monotonic()
        status.busy_s = 0.0
        status.alive = True
        status.handle.start(lambda report: self._receive(name, report), lambda cause: self._restart_later(name, cause))

    def _receive(self, name: str, report: Report) -> None:
        status = self._workers[name]
        status.heard = time.monotonic()
        if isinstance(report, Alive):
            status.busy_s = report.busy_s
            self._note_memory(name, status, report.idle_bytes)
            return
        status.busy_s = 0.0
        if isinstance(report, Ready):
            if (text := self._differs(report)) and status.joined is not None:
                status.joined.refuse(text)
                return
            status.ready, status.failures, status.broken = report, 0, ""
            logger.info("worker %s ready: %s with %s weights", name, report.network.name, report.network.weights)
            self.ready.set()
            self._receiver.on_ready(name)
        elif isinstance(report, CannotStart):
            if status.joined is not None:
                status.joined.refuse(report.message)
            else:
                self._note_broken(name, status, report.message)
        elif isinstance(report, PassMeasured):
            if status.ready:
                learned = status.ready.memory.learn(report.arithmetic, report.pixels, report.taken, report.share)
                status.ready = replace(status.ready, memory=learned)
        elif isinstance(report, Inspected):
            _, future = self._inspected.get(report.number, ("", None))
            if future is not None and not future.done():
                future.set_result(report)
        elif isinstance(report, Together):
            self._receiver.on_reports(name, report.reports)
        else:
            self._receiver.on_report(name, report)

    def _note_broken(self, name: str, status: WorkerStatus, message: str) -> None:
        """Go on without a worker that cannot start; if there is no other, the server must end."""
        status.broken = message
        logger.error("worker %s cannot start: %s", name, message, extra={"device": name})
        if all(other.broken for other in self.workers) and not self.broken.done():
            self.broken.set_result("; ".join(f"worker {other.handle.name}: {other.broken}" for other in self.workers))

    def _note_memory(self, name: str, status: WorkerStatus, idle_bytes: int | None) -> None:
        """Record the free memory of an idle worker's device if it differs much from the known value."""
        ready = status.ready
        if ready is None or ready.free_bytes is None or idle_bytes is None:
            return
        if not ready.free_bytes / MEMORY_CHANGE < idle_bytes < ready.free_bytes * MEMORY_CHANGE:
            status.ready = replace(ready, free_bytes=idle_bytes)
            self._receiver.on_memory(name)

    def _restart_later(self, name: str, cause: str) -> None:
        if self._stopping:
            return
        status = self._workers[name]
        if not status.alive:
            return  # its end was reported before, and it is being restarted
        status.alive = False
        delay = BROKEN_S if status.broken else RESTART_DELAYS_S[min(status.failures, len(RESTART_DELAYS_S) - 1)]
        status.failures += 1
        status.restarts += 1
        self._note_loss(name, status)
        logger.error("worker %s %s", name, cause, extra={"device": name})
        task = asyncio.create_task(self._restart(status, delay))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)
        self._receiver.on_lost(name, cause)

    def _note_loss(self, name: str, status: WorkerStatus) -> None:
        """Record that a worker's process is gone, and fail its inspections."""
        status.ready = None
        if not self.any_ready:
            self.ready.clear()
        for worker, future in self._inspected.values():
            if worker == name and not future.done():
                text = "the worker was lost meanwhile; retry"
                future.set_exception(ServiceError("WORKER_GONE", text, retry_s=1.0))

    def _differs(self, report: Ready) -> str:
        """Return how a worker's network differs from that of the others; empty if it does not."""
        ours, theirs = self.network, report.network
        if ours is None or (ours.id, ours.weights_sha256) == (theirs.id, theirs.weights_sha256):
            return ""
        return (
            f"its filters differ from the server's: {theirs.id} ({theirs.weights_sha256[:12]}) instead of {ours.id} "
            f"({ours.weights_sha256[:12]}); give it the same --weights"
        )

    async def _restart(self, status: WorkerStatus, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if self._workers.get(status.handle.name) is status:  # else it has left meanwhile
            self._start(status)
