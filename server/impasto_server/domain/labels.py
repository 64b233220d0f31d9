"""Limits of labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from impasto_engine.parameters import Violation

MAX_LABELS = 16
MAX_VALUE = 128
_NAME = re.compile(r"[A-Za-z0-9._/-]{1,63}")
_SHOWN = 40


def violations(labels: Mapping[str, str]) -> Iterator[Violation]:
    """Yield what is wrong with labels."""
    if len(labels) > MAX_LABELS:
        yield Violation("labels", f"at most {MAX_LABELS} are accepted, got {len(labels)}")
        return
    for name, value in labels.items():
        if not _NAME.fullmatch(name):
            text = "must have 1 to 63 letters, digits, dots, dashes, underscores or slashes"
            yield Violation("labels", f"the name {name[:_SHOWN]!r} {text}")
        elif len(value) > MAX_VALUE or not value.isprintable():
            yield Violation("labels", f"the value of {name!r} must have at most {MAX_VALUE} printable characters")
