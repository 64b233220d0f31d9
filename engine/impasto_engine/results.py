"""Results that painting reports. Does not import torch, so that the server can store them unchanged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Losses:
    """Weighted losses of a canvas. The optimizer minimizes ``total``."""

    content: float
    style: float
    total_variation: float

    @property
    def total(self) -> float:
        """Sum of the terms."""
        return self.content + self.style + self.total_variation
