"""Lower-case words for the values of the contract's enumerations, from its descriptor. Client and server both use them."""

from __future__ import annotations

import re
from typing import Any


def enum_words(enum: Any) -> dict[int, str]:
    """Return the word for each value: its name without the enumeration's prefix, in lower case.

    Args:
        enum: An enumeration of the generated module, such as ``pb.JobState``.
    """
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
    return {number: name.removeprefix(prefix).lower() for name, number in enum.items()}


def words(enum: Any) -> tuple[str, ...]:
    """Return the words that callers may use: all except that of the value 0, which means unspecified."""
    return tuple(word for number, word in enum_words(enum).items() if number)
