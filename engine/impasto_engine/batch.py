"""A running batch: canvases of one shape share every forward and backward pass, and join and leave between steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from impasto_engine.cuda_graphs import Evaluate, recorded
from impasto_engine.devices import release_cached
from impasto_engine.networks import Network
from impasto_engine.objective import Evaluation, StackedObjectives
from impasto_engine.optimizers import OPTIMIZERS, State, carried, converged, note_loss, stalled
from impasto_engine.parameters import Arithmetic, OptimizerName, Pooling
from impasto_engine.readings import Member, Reading
from impasto_engine.samples import Entrant, SampleState, Snapshot, Step
from impasto_engine.slots import Slots
from impasto_engine.spectral import Spectrum, spectrum_of
from impasto_engine.streams import Marker, hand_over


@dataclass(frozen=True)
class BatchKey:
    """Properties that canvases must have in common to share a pass through the network."""

    height: int
    width: int
    pooling: Pooling
    precision: Arithmetic


class _Group:
    """Members that use the same optimizer and the same length of history: one arena of states."""

    def __init__(self, optimizer: OptimizerName, history: int) -> None:
        self.optimizer: OptimizerName = optimizer
        self.history = history
        self.spectrum: Spectrum | None = None
        self.members: list[Member] = []
        self.slots = Slots()

    @property
    def state(self) -> State:
        return self.slots.state

    def add(self, member: Member, state: Mapping[str, Tensor]) -> None:
        self.slots.add(state)
        if self.optimizer == "lbfgs":
            self.spectrum = spectrum_of(state["canvas"])  # kept for the updates
            hand_over(self.spectrum.tensors())
        self.members.append(member)

    def remove(self, index: int) -> None:
        self.slots.remove(index)
        last = self.members.pop()
        if index < len(self.members):
            self.members[index] = last


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
        self._most = self._pass_size = group_size or default_group_size(network.device)
        self._lag = lag if lag is not None else (1 if network.device.type == "cuda" else 0)
        self._readings: deque[Reading] = deque()
        self._groups: list[_Group] = []
        self._passes: list[tuple[int, Evaluate]] = []
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
        return max(self._sizes(), default=0)

    @property
    def spare(self) -> int:
        """The number of slots for which memory is held, but which no canvas uses."""
        return sum(group.slots.capacity - len(group.slots) for group in self._groups)

    def add(self, name: str, entrant: Entrant) -> None:
        """Add a canvas; the others are unaffected. It takes part from the next step on.

        Raises:
            ValueError: If the canvas has another shape, or the name is taken.
            torch.OutOfMemoryError: If there is no memory for it; the batch has not changed then.
        """
        state = entrant.state
        shape = tuple(state["canvas"].shape[2:])
        if shape != (self.key.height, self.key.width):
            raise ValueError(f"canvas of {shape} cannot join a batch of {(self.key.height, self.key.width)}")
        if name in self:
            raise ValueError(f"{name!r} is already in the batch")
        kind = entrant.optimizer, entrant.history
        same = (g for g in self._groups if (g.optimizer, g.history) == kind and len(g.members) < self._most)
        group = next(same, None) or _Group(*kind)
        group.add(Member(name, entrant.objective, entrant.step, entrant.steps), state)
        if group not in self._groups:
            self._groups.append(group)
        self._passes = []

    def show(self, name: str, every: int) -> None:
        """Let the reports of each step whose number is divisible by this have the canvas of that step; 0 for none."""
        group, index = self._find(name)
        group.members[index].preview_every = every

    def snapshot(self, name: str, since: int | None = None) -> Snapshot:
        """Return a copy of a canvas's state on the device, to be brought to the host by any thread.

        Args:
            name: The canvas.
            since: A step that it completed in this batch, or joined with. Of its history, only what may have changed since
                is copied.
        """
        group, index = self._find(name)
        step = group.members[index].step
        tensors = group.slots.row(index, None if since is None else step - since)
        return Snapshot(group.optimizer, step, tensors, Marker(self.network.device))

    def export(self, name: str) -> SampleState:
        """Return the complete state of a canvas, on the CPU. The canvas stays in the batch."""
        return self.snapshot(name).fetch()

    def leave(self, name: str) -> None:
        """Remove a canvas. The others are unaffected. Reports that were not read are lost: call :meth:`flush` first.

        Raises:
            torch.OutOfMemoryError: If there is no memory; the batch has not changed then.
        """
        group, index = self._find(name)
        member = group.members[index]
        group.remove(index)
        member.removed = True
        if not group.members:
            self._groups.remove(group)
        self._passes = []

    def canvas(self, name: str) -> Float[Tensor, "3 height width"]:
        """Return the current canvas: the last one that was evaluated and accepted, also if its report is delayed."""
        group, index = self._find(name)
        return group.state["canvas"][index]

    def carried(self, name: str, height: int, width: int) -> dict[str, Tensor]:
        """Return the optimizer state to carry over to another size, see :func:`~impasto_engine.optimizers.carried`."""
        group, index = self._find(name)
        return carried(group.optimizer, group.slots.row(index), height, width)

    def step(self, measure: Callable[[], AbstractContextManager[object]] = nullcontext) -> list[tuple[str, Step]]:
        """Take one optimizer step for every canvas, at the cost of one evaluation each.

        If a pass runs out of device memory, the canvases per pass are halved, and all passes are repeated.

        Args:
            measure: Returns a context for the passes, without the optimizers' updates.

        Returns:
            Reports by name: for this step, for the previous step where reports are delayed, or for both.
        """
        if not self._groups:
            return self._report()
        while (evaluation := self._evaluate(measure)) is None:
            # Not in the handler of the error: its traceback holds the activations of the pass.
            self._make_room()
        sizes = [len(group.members) for group in self._groups]
        parts = zip(torch.split(evaluation.terms, sizes), torch.split(evaluation.gradient, sizes), strict=True)
        for group, (terms, gradient) in zip(self._groups, parts, strict=True):
            note_loss(group.state)
            OPTIMIZERS[group.optimizer].update(group.state, terms, gradient)
        return self._report()

    def flush(self, name: str) -> list[Step]:
        """Return one canvas's reports that are delayed, without another step."""
        return [step for reading in self._readings for _, step in reading.read(name)]

    def compact(self) -> None:
        """Free the memory of unused slots, as far as there is memory for the smaller copies."""
        for group in self._groups:
            with suppress(torch.OutOfMemoryError):
                group.slots.compact()

    def _evaluate(self, measure: Callable[[], AbstractContextManager[object]]) -> Evaluation | None:
        """Return the evaluation of all canvases; None if there was no memory, but there may be for smaller passes."""
        try:
            trials = [group.state["trial"] for group in self._groups]
            trial = torch.cat(trials) if len(trials) > 1 else trials[0]
            with measure():
                plan = self._plan()
                parts = torch.split(trial, [size for size, _ in plan])
                found = [evaluate(part) for part, (_, evaluate) in zip(parts, plan, strict=True)]
        except torch.OutOfMemoryError:
            if self.largest_pass == 1 and not self.spare:
                raise
            return None
        if len(found) == 1:
            return found[0]
        return Evaluation(torch.cat([part.terms for part in found]), torch.cat([part.gradient for part in found]))

    def _make_room(self) -> None:
        """Halve the number of canvases per pass from now on, because the device ran out of memory."""
        self._pass_size = max(1, self.largest_pass // 2)
        self._passes = []
        release_cached(self.network.device)
        self.compact()

    def _report(self) -> list[tuple[str, Step]]:
        rows, members, canvases = [], [], []
        for group in self._groups:
            terms = group.state["terms"]
            flags = torch.stack([stalled(group.state), converged(group.state)], dim=1).to(terms.dtype)
            rows.append(torch.cat([terms, flags], dim=1))
            for member, canvas in zip(group.members, group.state["canvas"], strict=True):
                member.step += 1
                members.append(member)
                canvases.append(canvas if member.shown else None)  # an update replaces the canvases, so this is a copy
        if members:
            self._readings.append(Reading(members, torch.cat(rows), canvases))
        lag = 0 if any(member.step >= member.steps for member in members) else self._lag
        reports: list[tuple[str, Step]] = []
        while len(self._readings) > lag:
            reports += self._readings.popleft().read()
        return reports

    def _sizes(self) -> list[int]:
        """Return the number of canvases of each pass, as equal as possible."""
        canvases = len(self)
        passes = -(-canvases // self._pass_size)
        return [canvases * (number + 1) // passes - canvases * number // passes for number in range(passes)]

    def _plan(self) -> list[tuple[int, Evaluate]]:
        """Return the passes: how many canvases each has, and its evaluation. Made anew after a member joined or left."""
        if not self._passes:
            members = [member for group in self._groups for member in group.members]
            key, first = self.key, 0
            for size in self._sizes():
                stacked = StackedObjectives([member.objective for member in members[first : first + size]], self.network)
                evaluate: Evaluate = partial(stacked.evaluate, self.network, pooling=key.pooling, precision=key.precision)
                if self._records:
                    trial = torch.cat([group.state["trial"] for group in self._groups])
                    evaluate = recorded(evaluate, trial[first : first + size])
                self._passes.append((size, evaluate))
                first += size
        return self._passes

    def _find(self, name: str) -> tuple[_Group, int]:
        for group in self._groups:
            for index, member in enumerate(group.members):
                if member.name == name:
                    return group, index
        raise KeyError(name)
