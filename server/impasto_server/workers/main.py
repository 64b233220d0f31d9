"""The worker process: loads the network, measures the device, and passes commands and reports over the pipe."""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import torch

from impasto_engine import painting
from impasto_engine.batch import default_group_size
from impasto_engine.devices import PeakMemory, auto_precision, describe, free_memory, prepare
from impasto_engine.networks import Network
from impasto_engine.objective import StackedObjectives
from impasto_engine.parameters import Arithmetic, Parameters
from impasto_engine.weights import WeightsError, available, load_network
from impasto_server.workers.lanes import lanes_for
from impasto_server.workers.memory import MemoryModel
from impasto_server.workers.messages import Alive, CannotStart, Command, Ready, Report, WorkerSettings
from impasto_server.workers.networks import described
from impasto_server.workers.running import Preparation
from impasto_server.workers.worker import DeviceLostError, Worker

logger = logging.getLogger(__name__)

ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""Lets torch give memory of jobs that have left to jobs of other sizes; read when the process first uses its GPU."""
DEVICE_LOST = 70
"""Exit status of a worker whose device fails."""
ALIVE_S = 1.0
"""How often the server is notified that this process runs."""
WARM_UP_SIDE_PX = 256
WARM_UP_ROUNDS = 4
"""The first round includes what the libraries keep; the lowest of the others counts, because stray allocations raise some."""
PREPARING_ROUNDS = 2
"""The same for the targets, whose passes have no gradient: they take less memory, and as long."""
_OTHER_ARITHMETIC: dict[Arithmetic, tuple[Arithmetic, float]] = {"bfloat16": ("float32", 2.0), "float32": ("bfloat16", 0.5)}


def worker_main(connection: Connection, settings: WorkerSettings) -> None:
    """Run a worker until its pipe closes. The entry point of the spawned process."""
    # The server decides when to stop: it closes the pipe. A Ctrl-C at the terminal reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    try:
        device = torch.device(settings.device)
        prepare(device)
        network = load_network(settings.weights, device)
        ready = warm_up(network)
    except Exception as error:  # an error at the start would repeat at every restart
        if not isinstance(error, WeightsError):
            logger.exception("the worker cannot start")
        connection.send(CannotStart(str(error) or type(error).__name__))
        return
    sending = threading.Lock()

    def send(report: Report) -> None:
        try:
            with sending:
                connection.send(report)
        except (BrokenPipeError, OSError):
            os._exit(0)  # the server is gone; see _receive

    send(ready)
    commands: queue.SimpleQueue[Command | Preparation] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, commands), daemon=True).start()
    interval_s, graphs = settings.checkpoint_interval_s, settings.cuda_graphs
    worker = Worker(network, send, lanes_for(device), interval_s, commands.put, graphs=graphs)
    turn = _Turn()
    threading.Thread(target=_send_alive, args=(turn, worker, send), name="alive", daemon=True).start()
    try:
        _run(worker, commands, turn)
    except DeviceLostError:
        logger.exception("the device cannot be used any more; this process ends, and is started again")
        os._exit(DEVICE_LOST)  # threads may wait for the device for ever


def _run(worker: Worker, commands: queue.SimpleQueue[Command | Preparation], turn: _Turn) -> None:
    while True:
        turn.end()
        for command in _drain(commands, wait=worker.waiting):
            turn.begin()
            worker.handle(command)
        turn.begin()
        worker.step()


class _Turn:
    """Measures how long the main thread has been busy with its current work."""

    def __init__(self) -> None:
        self._began: float | None = None

    def begin(self) -> None:
        if self._began is None:
            self._began = time.monotonic()

    def end(self) -> None:
        self._began = None

    @property
    def lasts_s(self) -> float:
        began = self._began
        return 0.0 if began is None else time.monotonic() - began


def _send_alive(turn: _Turn, worker: Worker, send: Callable[[Report], None]) -> None:
    while True:
        send(Alive(turn.lasts_s, free_memory(worker.device) if worker.idle else None))
        time.sleep(ALIVE_S)


def _receive(connection: Connection, commands: queue.SimpleQueue[Command | Preparation]) -> None:
    try:
        while True:
            commands.put(connection.recv())
    except (EOFError, OSError):
        # The server is gone, or stops this worker; its results are no longer needed.
        os._exit(0)


def _drain(commands: queue.SimpleQueue[Command | Preparation], *, wait: bool) -> Iterator[Command | Preparation]:
    try:
        yield commands.get(block=wait)
        while True:
            yield commands.get_nowait()
    except queue.Empty:
        return


def warm_up(network: Network) -> Ready:
    """Evaluate a canvas, so that the first job does not pay for the libraries' setup, and measure its time and memory."""
    device = network.device
    arithmetic = auto_precision(device)
    side = WARM_UP_SIDE_PX
    grey = torch.full((side, side, 3), 128, dtype=torch.uint8)
    job = painting.Job(side, side, grey, (painting.Style(grey),), Parameters(size_px=side))
    canvas = painting.first_canvas(job, device)
    preparing, passing, seconds = [], [], math.inf
    for _ in range(PREPARING_ROUNDS):
        with PeakMemory(device) as peak:
            objectives = StackedObjectives([painting.objective(network, job)], network)
        preparing.append(peak.taken)
    for _ in range(WARM_UP_ROUNDS):
        with PeakMemory(device) as peak:
            began = time.perf_counter()
            objectives.evaluate(network, canvas, job.parameters.pooling, arithmetic).terms.tolist()
            seconds = min(seconds, time.perf_counter() - began)
        passing.append(peak.taken)
    memory = MemoryModel()
    evaluated, prepared = (min(taken[1:]) / side**2 for taken in (passing, preparing))
    if evaluated:
        other, factor = _OTHER_ARITHMETIC[arithmetic]
        figures = {arithmetic: max(evaluated, prepared), other: max(evaluated * factor, prepared)}
        memory = MemoryModel({**figures, "tf32": figures["float32"]})
    group = default_group_size(device)
    names = available()
    seconds_per_pixel = seconds / side**2
    return Ready(describe(device), described(network), arithmetic, group, memory, free_memory(device), names, seconds_per_pixel)
