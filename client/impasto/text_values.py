"""Values written as text, for the command line and for forms."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"[0-9]{1,18}")


def layer_weights(text: str) -> dict[str, float]:
    """Return weight by layer for ``relu1_1=1,relu2_1=0.5``; a layer without a number has weight 1.

    Raises:
        ValueError: If a weight is not a number; the message says which.
    """
    weights = {}
    for item in filter(None, text.split(",")):
        layer, _, weight = item.partition("=")
        try:
            weights[layer.strip()] = float(weight) if weight else 1.0
        except ValueError:
            raise ValueError(f"{weight!r} in {item!r} is not a number") from None
    return weights


def schedule(text: str) -> list[tuple[int, int]]:
    """Return pairs of size and steps for ``256:100,512:50``.

    Raises:
        ValueError: If an item is not of that form; the message says which.
    """
    found = []
    for item in text.split(","):
        size, _, steps = item.partition(":")
        if not _WHOLE.fullmatch(size.strip()) or not _WHOLE.fullmatch(steps.strip()):
            raise ValueError(f"{item!r} is not SIZE:STEPS, such as 256:100")
        found.append((int(size), int(steps)))
    return found
