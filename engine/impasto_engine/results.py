"""What painting reports, without torch: the server records it as it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Losses:
    """Weighted losses of a canvas; ``total`` is what the optimizer lowers."""

    content: float
    style: float
    total_variation: float

    @property
    def total(self) -> float:
        """Sum of the terms."""
        return self.content + self.style + self.total_variation
