"""An arena of slots: the stacked optimizer states of samples that use the same optimizer and the same length of history.

Joining and leaving copy one sample, not all of them. The large tensors, which an update changes in place, have room for more
rows than there are samples; the others are replaced at every update anyway. The last sample takes the slot of one that leaves.
No operation changes the state before everything that it needs is allocated, so running out of memory loses nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor

from impasto_engine.optimizers import CHANGED_IN_PLACE, HISTORY, State, recent_row, row

SPARE = 8
"""An arena that is full grows by one slot, and by one more for each this many that it has."""


class Slots:
    """The states of any number of samples, with the batch as their first axis.

    Attributes:
        state: The stacked state. An update replaces its tensors or changes them in place.
    """

    def __init__(self) -> None:
        self.state: State = {}
        self._room: State = {}
        self._count = 0

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    @property
    def capacity(self) -> int:
        """The number of samples for which there is room."""
        return min((len(tensor) for tensor in self._room.values()), default=self._count)

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Add a sample's state, of batch size one, at the end.

        Raises:
            torch.OutOfMemoryError: If there is no memory; nothing has changed then.
        """
        if not self._count:
            self.state = dict(state)
            self._room = {name: state[name] for name in CHANGED_IN_PLACE & state.keys()}
            self._count = 1
            return
        for name, room in self._room.items():
            if len(room) == self._count:
                self._resize(name, self._count + 1 + self._count // SPARE)
        joined = {name: torch.cat([self.state[name], state[name]]) for name in self.state.keys() - self._room.keys()}
        for name, room in self._room.items():
            room[self._count].copy_(state[name][0])
        self._set(joined, self._count + 1)

    def remove(self, index: int) -> None:
        """Remove a sample. The last one takes its place.

        Raises:
            torch.OutOfMemoryError: If there is no memory; nothing has changed then.
        """
        last = self._count - 1
        if not last:
            self.state, self._room, self._count = {}, {}, 0
            return
        kept = {name: _without(self.state[name], index) for name in self.state.keys() - self._room.keys()}
        if index != last:
            for room in self._room.values():
                room[index].copy_(room[last])
        self._set(kept, last)
        if self.capacity > 2 * last:
            with contextlib.suppress(torch.OutOfMemoryError):
                self.compact()

    def row(self, index: int, updates: int | None = None) -> State:
        """Return a copy of one sample's state, with only those rows of its history that so many updates may have changed.

        The whole history is copied if ``updates`` is omitted, or if they may have changed all of it.
        """
        if updates is None or HISTORY[0] not in self.state or updates >= self.state[HISTORY[0]].shape[1]:
            return row(self.state, index)
        return recent_row(self.state, index, updates)

    def compact(self) -> None:
        """Free the slots that are not used.

        Raises:
            torch.OutOfMemoryError: If there is no memory for the smaller copy; nothing has changed then.
        """
        for name, room in self._room.items():
            if len(room) > self._count:
                self._resize(name, self._count)

    def _resize(self, name: str, capacity: int) -> None:
        room = self._room[name]
        fresh = room.new_empty(capacity, *room.shape[1:])
        fresh[: self._count] = room[: self._count]
        self._room[name] = fresh
        self.state[name] = fresh[: self._count]

    def _set(self, replaced: State, count: int) -> None:
        self.state |= replaced
        self.state |= {name: room[:count] for name, room in self._room.items()}
        self._count = count


def _without(values: Tensor, index: int) -> Tensor:
    """Return the rows without one, whose place the last takes."""
    last = len(values) - 1
    return torch.cat([values[:index], values[last:], values[index + 1 : last]]) if index != last else values[:last].clone()
