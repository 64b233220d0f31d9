"""A running batch: canvases of one shape that share every forward and backward pass, and join and leave between steps."""

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
    """What canvases must agree on to share a pass through the network."""

    height: int
    width: int
    pooling: Pooling
    precision: Arithmetic


@dataclass(frozen=True)
class Step:
    """What one optimizer step did to one canvas.

    Attributes:
        step: Number of the step, from 1.
        evaluations: Evaluations (one forward and one backward pass) that the canvas has cost so far.
        losses: Of the canvas as it stands; they never rise under L-BFGS.
        stalled: Whether the optimizer cannot find a better canvas any more.
        converged: Whether the loss falls more slowly than the sample's tolerance.
    """

    step: int
    evaluations: int
    losses: Losses
    stalled: bool
    converged: bool = False

    @property
    def last(self) -> bool:
        """Whether there is nothing more to gain at this size."""
        return self.stalled or self.converged


@dataclass(frozen=True)
class SampleState:
    """Everything that a sample needs to go on elsewhere: its optimizer's row and how far it is.

    Attributes:
        optimizer: Which optimizer the tensors belong to.
        step: Steps done.
        tensors: The optimizer's state, batch axis of one, on the CPU.
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
    gone: bool = False


class _Reading:
    """What a step did, on its way from the device to the host."""

    def __init__(self, members: list[_Member], values: Tensor) -> None:
        self._who = [(member, member.step) for member in members]
        self._arrived: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        else:
            self._values = values

    def read(self) -> list[tuple[str, Step]]:
        """Return the reports; waits for the device if it is not so far yet."""
        if self._arrived is not None:
            self._arrived.synchronize()
        rows = zip(self._who, self._values.tolist(), strict=True)
        return [
            (member.name, Step(step, step, Losses(content, style, variation), bool(stuck), bool(enough)))
            for (member, step), (content, style, variation, stuck, enough) in rows
            if not member.gone
        ]


class _Group:
    """Members that are evaluated together and move by the same optimizer: one stacked state."""

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
    """Return how many canvases go through the network in one pass on a device."""
    return 1 if device.type == "cpu" else 64


class RunningBatch:
    """Steps any number of canvases of one shape; each has its own objective, optimizer, history and safeguards.

    Args:
        network: Shared, resident on its device.
        key: Shape and arithmetic that the members agree on.
        group_size: How many canvases go through the network in one pass. On a GPU as many as there are (the default); on a
            CPU one, where a bigger pass gains nothing worth having (5 % at 128 px) and the order of sums inside it would
            depend on the neighbours: one by one, a sample's result is the same bit for bit whoever shares the batch.
        graphs: Whether evaluations are recorded as CUDA graphs, for each shape and its members anew; not on a CPU.
        lag: How many steps later their reports are read. On a GPU one (the default), so that the device begins the next step
            while the host reads the last; on a CPU none.
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
        self._lag = lag if lag is not None else (0 if network.device.type == "cpu" else 1)
        self._readings: deque[_Reading] = deque()
        self._groups: list[_Group] = []
        self._passes: list[tuple[list[_Group], Evaluate]] = []
        self._records = graphs and network.device.type == "cuda"

    def __len__(self) -> int:
        """Return how many canvases are in the batch."""
        return sum(len(group.members) for group in self._groups)

    def __contains__(self, name: str) -> bool:
        """Return whether a canvas of that name is in the batch."""
        return any(member.name == name for group in self._groups for member in group.members)

    @property
    def largest_pass(self) -> int:
        """How many canvases go through the network at once, at most."""
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
        """Add a canvas for whose optimizer everything begins.

        Args:
            name: Of the canvas in this batch.
            objective: What it is judged by.
            canvas: Where it starts.
            optimizer: How it moves.
            learning_rate: Of the optimizer.
            history: Pairs that L-BFGS remembers.
            steps: Number of its last step here, whose report is never late.
            done: Steps counted before this one.
            tolerance: See :class:`~impasto_engine.parameters.Parameters`.
            carried: What the optimizer goes on with from a coarser canvas; it begins anew without.

        Raises:
            ValueError: If the canvas has another shape, or the name is taken.
        """
        state = OPTIMIZERS[optimizer].start(canvas.to(self.network.device), learning_rate, history)
        state["tolerance"] = state["tolerance"] + tolerance
        state |= carried or {}
        self._admit(_Member(name, objective, done, steps), optimizer, state)

    def resume(self, name: str, objective: Objective, state: SampleState, steps: int) -> None:
        """Add a canvas where :meth:`export` left it.

        Raises:
            ValueError: If the canvas has another shape, or the name is taken.
        """
        tensors = {key: value.to(self.network.device) for key, value in state.tensors.items()}
        self._admit(_Member(name, objective, state.step, steps), state.optimizer, tensors)

    def export(self, name: str) -> SampleState:
        """Return a canvas's whole state, on the CPU; the canvas stays in the batch."""
        group, index = self._find(name)
        tensors = {key: value.cpu() for key, value in row(group.state, index).items()}
        return SampleState(group.optimizer, group.members[index].step, tensors)

    def leave(self, name: str) -> None:
        """Take a canvas out; the others do not notice."""
        group, index = self._find(name)
        group.members[index].gone = True
        group.remove(index)
        if not group.members:
            self._groups.remove(group)
        self._passes = []

    def canvas(self, name: str) -> Float[Tensor, "3 height width"]:
        """Return a canvas as it stands: the last one evaluated and accepted, whose losses were reported."""
        group, index = self._find(name)
        return group.state["canvas"][index]

    def carried(self, name: str, height: int, width: int) -> dict[str, Tensor]:
        """Return what a canvas's optimizer can go on with at another size, see :func:`~impasto_engine.optimizers.carried`."""
        group, index = self._find(name)
        return carried(group.optimizer, row(group.state, index), height, width)

    def step(self) -> list[tuple[str, Step]]:
        """Move every canvas by one optimizer step, at the cost of one evaluation each.

        A pass for which the device has not the memory is tried again in halves.

        Returns:
            What the steps did, by name: of this step, or of the one before where reports are late, or both.
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
        late = 0 if any(member.step >= member.steps for member in members) else self._lag
        reports: list[tuple[str, Step]] = []
        while len(self._readings) > late:
            reports += self._readings.popleft().read()
        return reports

    def _plan(self) -> list[tuple[list[_Group], Evaluate]]:
        """Return which groups are evaluated together; worked out again only when somebody joined or left."""
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
        """Let half as many canvases go through the network at once from now on: the device has not the memory for more."""
        self._group_size = max(1, canvases // 2)
        for group in groups:
            while len(group.members) > self._group_size:
                last = len(group.members) - 1
                apart = _Group(group.optimizer)
                apart.add(group.members[last], row(group.state, last))
                group.remove(last)
                self._groups.append(apart)
        self._passes = []

    def _admit(self, member: _Member, optimizer: OptimizerName, state: Mapping[str, Tensor]) -> None:
        shape = tuple(state["canvas"].shape[2:])
        if shape != (self.key.height, self.key.width):
            raise ValueError(f"canvas of {shape} cannot join a batch of {(self.key.height, self.key.width)}")
        if member.name in self:
            raise ValueError(f"{member.name!r} is in the batch already")
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
