"""The text of the contract: what its comments say about messages, fields and values."""

from __future__ import annotations

import importlib.resources
import re
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path

CONTRACT = "impasto/v1/style_transfer.proto"


def source() -> Traversable:
    """Return the contract's file: the installed one, or that of the clone."""
    packed = importlib.resources.files("impasto") / "v1" / "style_transfer.proto"
    # In a clone it lies where the other languages look for it.
    return packed if packed.is_file() else Path(__file__).parents[2] / "proto" / CONTRACT


@cache
def _lines() -> tuple[str, ...]:
    return tuple(source().read_text(encoding="utf-8").splitlines())


def messages(kind: str) -> dict[str, list[tuple[str, str, str]]]:
    """Return the type, name and comment of every field of every message (or the name and comment of enum values).

    Args:
        kind: ``message`` or ``enum``.
    """
    found: dict[str, list[tuple[str, str, str]]] = {}
    comment: list[str] = []
    name = ""
    for raw in _lines():
        line = raw.strip()
        if start := re.match(rf"{kind} (\w+) {{", line):
            name = start[1]
            found[name] = []
        elif raw == "}":
            name = ""
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        field = re.match(r"(?:optional |repeated )?([\w.]+|map<.+>) (\w+) = \d+;", line) if kind == "message" else None
        value = re.match(r"(\w+) = \d+;", line) if kind == "enum" else None
        if name and field:
            found[name].append((field[1], field[2], " ".join(comment)))
        elif name and value:
            found[name].append(("", value[1], " ".join(comment)))
        comment = []
    return found


def descriptions() -> dict[str, str]:
    """Return the comment of every message, enumeration and RPC by its name."""
    found: dict[str, str] = {}
    comment: list[str] = []
    for raw in _lines():
        line = raw.strip()
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        if named := re.match(r"(?:message|enum|rpc) (\w+)", line):
            found[named[1]] = " ".join(comment)
        comment = []
    return found
