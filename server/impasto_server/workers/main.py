"""The worker process: loads the network, measures the device, and passes commands and reports over the pipe."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import torch

from impasto_engine.devices import free_memory, prepare
from impasto_engine.weights import WeightsError, load_network
from impasto_server.stops import ignore_stops
from impasto_server.workers.failures import DeviceLostError
from impasto_server.workers.lanes import lanes_for
from impasto_server.workers.messages import Alive, CannotStart, Command, Report, WorkerSettings
from impasto_server.workers.running import Preparation
from impasto_server.workers.warm_up import warm_up
from impasto_server.workers.worker import Worker

logger = logging.getLogger(__name__)

ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""Lets torch give memory of jobs that have left to jobs of other sizes; read when the process first uses its GPU."""
DEVICE_LOST = 70
"""Exit status of a worker whose device fails."""
ALIVE_S = 1.0
"""How often the server is notified that this process runs."""


def worker_main(connection: Connection, settings: WorkerSettings) -> None:
    """Run a worker until its pipe closes. The entry point of the spawned process."""
    ignore_stops()  # the server decides when to stop: it closes the pipe
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
    worker = Worker(
        network,
        send,
        lanes_for(device),
        settings.checkpoint_interval_s,
        commands.put,
        graphs=settings.cuda_graphs,
        whole_checkpoints=settings.whole_checkpoints,
    )
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
