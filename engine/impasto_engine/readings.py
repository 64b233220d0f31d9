"""The results of a step on their way from the device to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto_engine.objective import Objective
from impasto_engine.results import Losses
from impasto_engine.samples import Step
from impasto_engine.streams import to_host


@dataclass
class Member:
    """A canvas of a running batch.

    Attributes:
        step: Number of completed steps.
        steps: Number of its last step in the batch.
        preview_every: Steps divisible by this report their canvas; 0 for none.
        reported: The last step that was reported.
        removed: Whether it has left.
    """

    name: str
    objective: Objective
    step: int
    steps: int
    preview_every: int = 0
    reported: int = 0
    removed: bool = False

    @property
    def shown(self) -> bool:
        """Whether the report of the current step needs its canvas."""
        return self.preview_every > 0 and self.step % self.preview_every == 0


class Reading:
    """Results that are being copied to the host.

    Args:
        members: The members that took a step.
        values: A row for each: three losses, whether it has stalled, whether it has converged.
        canvases: The canvas of each that its report needs, else None.
    """

    def __init__(self, members: Sequence[Member], values: Tensor, canvases: Sequence[Tensor | None]) -> None:
        self._members = [(member, member.step) for member in members]
        self._canvases = canvases
        self._copied: torch.cuda.Event | None = None
        self._values = to_host(values)
        if values.device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def read(self, name: str | None = None) -> list[tuple[str, Step]]:
        """Return the reports, or one member's, that were not read before. Blocks until the copy has completed."""
        if self._copied is not None:
            self._copied.synchronize()
        found = []
        for (member, step), values, canvas in zip(self._members, self._values.tolist(), self._canvases, strict=True):
            if member.removed or step <= member.reported or name not in (None, member.name):
                continue
            member.reported = step
            content, style, variation, has_stalled, has_converged = values
            losses = Losses(content, style, variation)
            found.append((member.name, Step(step, step, losses, bool(has_stalled), bool(has_converged), canvas)))
        return found
