"""A running batch: canvases of one shape share every forward and backward pass, and join and leave between steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from impasto_engine.cuda_graphs import Evaluate, recorded
from impasto_engine.networks import Network
from impasto_engine.objective import Objective, StackedObjectives
from impasto_engine.optimizers import OPTIMIZERS, State, carried, converged, note_loss, row, stack, stalled, without
from impasto_engine.parameters import Arithmetic, OptimizerName, Pooling
from impasto_engine.results import Losses


@dataclass(frozen=True)
class BatchKey:
    """Properties that canvases must have in common to share a pass through the network."""

    height: int
    width: int
    pooling: Pooling
    precision: Arithmetic


@dataclass(frozen=True)
class Step:
    """The result of one optimizer step for one canvas.

    Attributes:
        step: Step number, starting at 1.
        evaluations: Number of evaluations (one forward and one backward pass each) of this canvas so far.
        losses: Losses of the current canvas. Under L-BFGS their total never increases.
        stalled: Whether the optimizer can find no further improvement.
        converged: Whether the relative decrease of the loss is below the sample's tolerance.
    """

    step: int
    evaluations: int
    losses: Losses
    stalled: bool
    converged: bool = False

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
        tensors: The optimizer state on the CPU, with a batch axis of length one.
    """

    optimizer: OptimizerName
    step: int
    tensors: Mapping[str, Tensor]


@dataclass
class _Member:
    name: str
    objective: Objective
    step: int
    steps: int
    removed: bool = False


class _Reading:
    """The results of a step while they are copied from the device to the host."""

    def __init__(self, members: list[_Member], values: Tensor) -> None:
        self._members = [(member, member.step) for member in members]
        self._copied: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        else:
            self._values = values

    def read(self) -> list[tuple[str, Step]]:
        """Return the reports. Blocks until the copy from the device has completed."""
        if self._copied is not None:
            self._copied.synchronize()
        rows = zip(self._members, self._values.tolist(), strict=True)
        return [
            (member.name, Step(step, step, Losses(content, style, variation), bool(has_stalled), bool(has_converged)))
            for (member, step), (content, style, variation, has_stalled, has_converged) in rows
            if not member.removed
        ]


class _Group:
    """Members that are evaluated together and use the same optimizer: one stacked state."""

    def __init__(self, optimizer: OptimizerName) -> None:
        self.optimizer: OptimizerName = optimizer
        self.members: list[_Member] = []
        self.state: State = {}

    def add(self, member: _Member, state: Mapping[str, Tensor]) -> None:
        self.state = stack([self.state, state]) if self.members else dict(state)
        self.members.append(member)

    def remove(self, index: int) -> None:
        del self.members[index]
        self.state = without(self.state, index) if self.members else {}


def default_group_size(device: torch.device) -> int:
    """Return the default number of canvases per network pass on a device."""
    return 1 if device.type == "cpu" else 64


class RunningBatch:
    """Steps any number of canvases of one shape. Each has its own objective, optimizer, history and safeguards.

    Args:
        network: Shared by all canvases, resident on its device.
        key: Shape and arithmetic of all members.
        group_size: Maximum number of canvases per network pass. The default is 64 on a GPU and one on a CPU. On a CPU a larger
            pass gains little (5 % at 128 px), and the summation order inside it would depend on the other members. With one
            canvas per pass, a sample's result is bit-identical whatever else is in the batch.
        graphs: Whether evaluations are recorded as CUDA graphs. A recording is valid for one shape and one set of members.
            Ignored on a CPU.
        lag: Number of steps by which reports are delayed. The default is one on a GPU, so that the device starts the next step
            while the host reads the last one, and zero on a CPU.
    """

    def __init__(
        self,
        network: Network,
        key: BatchKey,
        group_size: int | None = None,
        lag: int | None = None,
        *,
        graphs: bool = False,
    ) -> None:
        self.network = network
        self.key = key
        self._group_size = group_size or default_group_size(network.device)
        self._lag = lag if lag is not None else (1 if network.device.type == "cuda" else 0)
        self._readings: deque[_Reading] = deque()
        self._groups: list[_Group] = []
        self._passes: list[tuple[list[_Group], Evaluate]] = []
        self._records = graphs and network.device.type == "cuda"

    def __len__(self) -> int:
        """Return the number of canvases in the batch."""
        return sum(len(group.members) for group in self._groups)

    def __contains__(self, name: str) -> bool:
        """Return whether a canvas of that name is in the batch."""
        return any(member.name == name for group in self._groups for member in group.members)

    @property
    def largest_pass(self) -> int:
        """The largest number of canvases in one network pass."""
        return max((sum(len(group.members) for group in groups) for groups, _ in self._plan()), default=0)

    def join(
        self,
        name: str,
        objective: Objective,
        canvas: Float[Tensor, "1 3 height width"],
        optimizer: OptimizerName,
        learning_rate: float,
        history: int,
        steps: int,
        done: int = 0,
        tolerance: float = 0.0,
        carried: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add a canvas with a new optimizer state.

        Args:
            name: Name of the canvas in this batch.
            objective: The objective to minimize.
            canvas: The initial canvas.
            optimizer: The optimizer to use.
            learning_rate: Learning rate of the optimizer.
            history: Number of pairs that L-BFGS keeps.
            steps: Number of the last step in this batch. Its report is never delayed.
            done: Number of steps completed before joining.
            tolerance: See :class:`~impasto_engine.parameters.Parameters`.
            carried: Optimizer state carried over from a coarser canvas. Without it the optimizer starts from scratch.

        Raises:
            ValueError: If the canvas has another shape, or the name is taken.
        """
        state = OPTIMIZERS[optimizer].start(canvas.to(self.network.device), learning_rate, history)
        state["tolerance"] = state["tolerance"] + tolerance
        state |= carried or {}
        self._add(_Member(name, objective, done, steps), optimizer, state)

    def resume(self, name: str, objective: Objective, state: SampleState, steps: int) -> None:
        """Add a canvas from a state returned by :meth:`export`, and resume its optimization.

        Raises:
            ValueError: If the canvas has another shape, or the name is taken.
        """
        tensors = {key: value.to(self.network.device) for key, value in state.tensors.items()}
        self._add(_Member(name, objective, state.step, steps), state.optimizer, tensors)

    def export(self, name: str) -> SampleState:
        """Return the complete state of a canvas, on the CPU. The canvas stays in the batch."""
        group, index = self._find(name)
        tensors = {key: value.cpu() for key, value in row(group.state, index).items()}
        return SampleState(group.optimizer, group.members[index].step, tensors)

    def leave(self, name: str) -> None:
        """Remove a canvas. The others are unaffected."""
        group, index = self._find(name)
        group.members[index].removed = True
        group.remove(index)
        if not group.members:
            self._groups.remove(group)
        self._passes = []

    def canvas(self, name: str) -> Float[Tensor, "3 height width"]:
        """Return the current canvas: the last one that was evaluated and accepted, whose losses were reported."""
        group, index = self._find(name)
        return group.state["canvas"][index]

    def carried(self, name: str, height: int, width: int) -> dict[str, Tensor]:
        """Return the optimizer state to carry over to another size, see :func:`~impasto_engine.optimizers.carried`."""
        group, index = self._find(name)
        return carried(group.optimizer, row(group.state, index), height, width)

    def step(self) -> list[tuple[str, Step]]:
        """Take one optimizer step for every canvas, at the cost of one evaluation each.

        If a pass runs out of device memory, it is split in half and retried.

        Returns:
            Reports by name: for this step, for the previous step where reports are delayed, or for both.
        """
        stepped: set[int] = set()
        while remaining := [plan for plan in self._plan() if id(plan[0][0]) not in stepped]:
            groups, evaluate = remaining[0]
            trials = [group.state["trial"] for group in groups]
            trial = torch.cat(trials) if len(trials) > 1 else trials[0]
            try:
                evaluation = evaluate(trial)
            except torch.OutOfMemoryError:
                if len(trial) == 1:
                    raise
                self._halve(groups, len(trial))
                continue
            sizes = [len(part) for part in trials]
            parts = zip(torch.split(evaluation.terms, sizes), torch.split(evaluation.gradient, sizes), strict=True)
            for group, (terms, gradient) in zip(groups, parts, strict=True):
                note_loss(group.state)
                OPTIMIZERS[group.optimizer].update(group.state, terms, gradient)
                stepped.add(id(group))
        return self._report()

    def _report(self) -> list[tuple[str, Step]]:
        rows, members = [], []
        for group in self._groups:
            terms = group.state["terms"]
            flags = torch.stack([stalled(group.state), converged(group.state)], dim=1).to(terms.dtype)
            rows.append(torch.cat([terms, flags], dim=1))
            members += group.members
        for member in members:
            member.step += 1
        if members:
            self._readings.append(_Reading(members, torch.cat(rows)))
        lag = 0 if any(member.step >= member.steps for member in members) else self._lag
        reports: list[tuple[str, Step]] = []
        while len(self._readings) > lag:
            reports += self._readings.popleft().read()
        return reports

    def _plan(self) -> list[tuple[list[_Group], Evaluate]]:
        """Return the groups that are evaluated together. Recomputed only after a member joined or left."""
        if not self._passes:
            together: list[list[_Group]] = []
            for group in self._groups:
                room = bool(together) and sum(len(g.members) for g in together[-1]) + len(group.members) <= self._group_size
                if room:
                    together[-1].append(group)
                else:
                    together.append([group])
            for groups in together:
                objectives = [member.objective for group in groups for member in group.members]
                stacked = StackedObjectives(objectives, self.network)
                key = self.key
                evaluate: Evaluate = partial(stacked.evaluate, self.network, pooling=key.pooling, precision=key.precision)
                if self._records:
                    evaluate = recorded(evaluate, torch.cat([group.state["trial"] for group in groups]))
                self._passes.append((groups, evaluate))
        return self._passes

    def _halve(self, groups: Sequence[_Group], canvases: int) -> None:
        """Halve the number of canvases per pass from now on, because the device ran out of memory."""
        self._group_size = max(1, canvases // 2)
        for group in groups:
            while len(group.members) > self._group_size:
                last = len(group.members) - 1
                split = _Group(group.optimizer)
                split.add(group.members[last], row(group.state, last))
                group.remove(last)
                self._groups.append(split)
        self._passes = []

    def _add(self, member: _Member, optimizer: OptimizerName, state: Mapping[str, Tensor]) -> None:
        shape = tuple(state["canvas"].shape[2:])
        if shape != (self.key.height, self.key.width):
            raise ValueError(f"canvas of {shape} cannot join a batch of {(self.key.height, self.key.width)}")
        if member.name in self:
            raise ValueError(f"{member.name!r} is already in the batch")
        group = next((g for g in self._groups if g.optimizer == optimizer and len(g.members) < self._group_size), None)
        if group is None:
            group = _Group(optimizer)
            self._groups.append(group)
        group.add(member, state)
        self._passes = []

    def _find(self, name: str) -> tuple[_Group, int]:
        for group in self._groups:
            for index, member in enumerate(group.members):
                if member.name == name:
                    return group, index
        raise KeyError(name)
