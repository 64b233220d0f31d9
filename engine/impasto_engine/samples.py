"""What a running batch takes and gives: samples that are ready to join, their states, and the reports of their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from impasto_engine.objective import Objective
from impasto_engine.optimizers import HISTORY, OPTIMIZERS, State
from impasto_engine.parameters import OptimizerName
from impasto_engine.results import Losses
from impasto_engine.streams import Marker, to_host


@dataclass(frozen=True)
class Step:
    """The result of one optimizer step for one canvas.

    Attributes:
        step: Step number, starting at 1.
        evaluations: Number of evaluations (one forward and one backward pass each) of this canvas so far.
        losses: Losses of the current canvas. Under L-BFGS their total never increases.
        stalled: Whether the optimizer can find no further improvement.
        converged: Whether the relative decrease of the loss is below the sample's tolerance.
        canvas: The canvas that the losses belong to, (3, height, width) on the device, if it was asked for.
    """

    step: int
    evaluations: int
    losses: Losses
    stalled: bool
    converged: bool = False
    canvas: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def last(self) -> bool:
        """Whether further steps at this size would bring no improvement."""
        return self.stalled or self.converged


@dataclass(frozen=True)
class SampleState:
    """Everything needed to resume a sample in another batch: its optimizer state and its step count.

    Attributes:
        optimizer: The optimizer that the tensors belong to.
        step: Number of completed steps.
        tensors: The optimizer state on the CPU, with a batch axis of length one. They may have only the latest rows
            of the history.
    """

    optimizer: OptimizerName
    step: int
    tensors: Mapping[str, Tensor]

    @property
    def history(self) -> int:
        """Number of pairs that its history has room for; 0 if its optimizer keeps none."""
        return int(self.tensors["history"]) if "history" in self.tensors else 0

    @property
    def places(self) -> tuple[int, ...]:
        """The place in the ring of each row of its history."""
        rows = self.tensors[HISTORY[0]].shape[1] if self.history else 0
        return tuple(range(rows)) if rows >= self.history else self.latest(rows)

    @property
    def valid(self) -> tuple[int, ...]:
        """The places in the ring that hold a pair, from the oldest to the newest."""
        return self.latest(int(self.tensors["count"])) if self.history else ()

    def latest(self, count: int) -> tuple[int, ...]:
        """Return so many places of the ring, or all, that end with the one written last."""
        count, following = min(count, self.history), int(self.tensors["next"])
        return tuple((following - count + number) % self.history for number in range(count))


@dataclass(frozen=True)
class Snapshot:
    """A copy of a sample's state on its device.

    Attributes:
        tensors: The optimizer state, with a batch axis of length one.
        marker: When the copy is complete on the device.
    """

    optimizer: OptimizerName
    step: int
    tensors: State
    marker: Marker

    def fetch(self) -> SampleState:
        """Return the state on the CPU. On a GPU this blocks the calling thread, but no step."""
        with self.marker.beside():
            tensors = {name: to_host(tensor) for name, tensor in self.tensors.items()}
        return SampleState(self.optimizer, self.step, tensors)


@dataclass(frozen=True)
class Entrant:
    """A sample that is ready to join a batch. Making one costs network passes; adding it to a batch costs a copy.

    Attributes:
        objective: The objective to minimize.
        optimizer: The optimizer that the state belongs to.
        state: The optimizer state on the batch's device, with a batch axis of length one.
        step: Number of completed steps.
        steps: Number of the last step in the batch. Its report is never delayed.
    """

    objective: Objective
    optimizer: OptimizerName
    state: Mapping[str, Tensor]
    step: int
    steps: int

    @property
    def history(self) -> int:
        """Number of pairs that its state has room for; 0 if its optimizer keeps none."""
        return self.state["steps"].shape[1] if "steps" in self.state else 0


def entrant(
    objective: Objective,
    canvas: Float[Tensor, "1 3 height width"],
    optimizer: OptimizerName,
    learning_rate: float,
    history: int,
    steps: int,
    done: int = 0,
    tolerance: float = 0.0,
    carried: Mapping[str, Tensor] | None = None,
) -> Entrant:
    """Return a sample with a new optimizer state.

    Args:
        objective: The objective to minimize.
        canvas: The initial canvas, on the batch's device.
        optimizer: The optimizer to use.
        learning_rate: Learning rate of the optimizer.
        history: Number of pairs that L-BFGS keeps.
        steps: Number of the last step in the batch.
        done: Number of steps completed before joining.
        tolerance: See :class:`~impasto_engine.parameters.Parameters`.
        carried: Optimizer state carried over from a coarser canvas. Without it the optimizer starts from scratch.
    """
    state = OPTIMIZERS[optimizer].start(canvas, learning_rate, history)
    state["tolerance"] = state["tolerance"] + tolerance
    return Entrant(objective, optimizer, state | dict(carried or {}), done, steps)


def resumed(objective: Objective, state: SampleState, steps: int, device: torch.device) -> Entrant:
    """Return a sample with the state that another batch exported. The given tensors are copied, and stay as they are."""
    tensors = {name: value.to(device, copy=True) for name, value in state.tensors.items()}
    if "history" in tensors:  # older versions padded histories to the longest in the batch
        pairs = int(state.tensors["history"])
        tensors |= {name: tensors[name][:, :pairs].contiguous() for name in HISTORY}
        tensors["products"] = tensors["products"][:, :pairs, :pairs].contiguous()
    return Entrant(objective, state.optimizer, tensors, state.step, steps)
