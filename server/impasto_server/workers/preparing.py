"""Prepares jobs to join a batch: decodes pictures, loads networks, finds the checkpoint, computes the targets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from impasto_engine import painting
from impasto_engine.networks import Network
from impasto_server.domain.job import JobSpec
from impasto_server.workers import checkpoints, tensors
from impasto_server.workers.checkpoints import Checkpoint
from impasto_server.workers.messages import JobStarted, Start
from impasto_server.workers.networks import Residents, described
from impasto_server.workers.pairs import Ledger
from impasto_server.workers.running import Ready, Running

logger = logging.getLogger(__name__)


class Preparer:
    """Prepares one job at a time, on any thread.

    Args:
        networks: The networks on the device.
        kept: States of parked jobs whose checkpoints could not be written; those that are used are removed.
        interval_s: How often a job's state is written.
    """

    def __init__(self, networks: Residents, kept: MutableMapping[str, Checkpoint], interval_s: float) -> None:
        self._networks = networks
        self._kept = kept
        self._interval_s = interval_s
        self._styles = painting.StyleCache()

    def start(self, command: Start, used: Collection[Network]) -> Ready:
        """Return a job that starts, or goes on from its checkpoint.

        Args:
            command: The command.
            used: Networks that must stay on the device.

        Raises:
            Exception: Whatever is wrong with the job.
        """
        default = self._networks.default
        job = tensors.to_engine(_pinned(command, default.device))
        network = self._networks.get(command.spec.parameters.network, used)
        key = job.key(network.device)
        owner = f"{command.job_id} {network.weights.sha256} {key.precision}"
        path = Path(command.checkpoint) if command.checkpoint else None
        found, note = self._kept.get(command.job_id), ""
        if path and found is None:
            found, note = checkpoints.latest(path, owner)
        plan, index = painting.levels(job), 0
        if found is not None:
            try:
                index = painting.level_of(plan, found.state)
            except ValueError as error:  # of a version that has other sizes
                found, note = None, f"its checkpoint cannot be used: {error}"
        if note:
            logger.warning("job %s: %s", command.job_id, note)
        done = found.state.step if found else 0
        if found is None:
            entrant = painting.entrant(network, plan[index], self._styles)
        else:
            entrant = painting.resumed(network, plan[index], found.state, self._styles)
        self._kept.pop(command.job_id, None)
        now = time.monotonic()
        began = now - (found.elapsed_s if found else 0.0)
        ledger = Ledger(path, None if found else entrant.step) if path else None
        running = Running(command.spec, owner, plan, index, network, began, path, ledger, now + self._interval_s)
        hits, misses = self._styles.take_counts()
        threads = torch.get_num_threads()
        started = JobStarted(command.job_id, key.precision, done, note, described(network), hits, misses, threads)
        return Ready(running, entrant, started)

    def climb(self, running: Running, canvas: Tensor, carry: Callable[[int, int], Mapping[str, Tensor]]) -> Ready:
        """Return a job at the level after its current one, with its canvas enlarged.

        Args:
            running: The job, which has left its batch.
            canvas: Its last canvas, (3, height, width).
            carry: Returns the optimizer state that is carried over to a height and width.
        """
        before, following = running.level, running.levels[running.index + 1]
        job = following.job
        enlarged = painting.next_canvas(canvas, before.job, job, canvas.device)
        entrant = painting.entrant(running.network, following, self._styles, enlarged, carry(job.height, job.width))
        running.index += 1
        if running.checkpoint:
            running.ledger = Ledger(running.checkpoint, entrant.step)  # a pair has another size at each level
        return Ready(running, entrant)


def _pinned(command: Start, device: torch.device) -> JobSpec:
    """Return a job's spec with the arithmetic that it began with, if this device has it."""
    spec, begun = command.spec, command.arithmetic
    if begun is None or spec.parameters.precision != "auto" or (begun == "tf32" and device.type != "cuda"):
        return spec
    return replace(spec, parameters=replace(spec.parameters, precision=begun))
