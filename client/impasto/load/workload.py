"""The workload: a mix of classes of jobs, from a small TOML file, reproducible by seed.

[[entry]]
name = "small"
weight = 3
size_px = [128, 192]          # one of these
steps = 20
preset = "preview"
content = "photos/"           # a file or a folder; generated pictures if empty
style = "styles/"
variants = 4                  # number of different jobs of this class, which are repeated
options = { color = "luminance" }
call = "job"                  # or "health": one small call, to measure the load generator itself
"""

from __future__ import annotations

import io
import math
import random
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from impasto.errors import InvalidRequest
from impasto.requests import job_spec

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_DRAWN_PX = 256


class WorkloadError(ValueError):
    """An invalid workload; the message names the entry."""


@dataclass(frozen=True)
class Entry:
    """A class of requests; see the module's docstring.

    Raises:
        WorkloadError: If a value is invalid.
    """

    name: str = "default"
    weight: float = 1.0
    size_px: tuple[int, ...] = (128,)
    steps: int = 20
    preset: str = ""
    content: str = ""
    style: str = ""
    variants: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)
    call: str = "job"

    def __post_init__(self) -> None:
        sizes_fit = isinstance(self.size_px, tuple) and self.size_px and all(map(_whole, self.size_px))
        checks: tuple[tuple[str, bool, str], ...] = (
            ("weight", _finite(self.weight) and self.weight > 0, "a number above 0"),
            ("size_px", bool(sizes_fit), "a whole number above 0, or a list of them"),
            ("steps", _whole(self.steps), "a whole number above 0"),
            ("variants", _whole(self.variants), "a whole number above 0"),
            ("call", self.call in ("job", "health"), "job or health"),
            ("options", isinstance(self.options, Mapping), "a table"),
            *((name, isinstance(getattr(self, name), str), "text") for name in ("name", "preset", "content", "style")),
        )
        for name, fits, kind in checks:
            if not fits:
                raise WorkloadError(f"{self.name}: {name} must be {kind}, got {getattr(self, name)!r}")
        try:
            job_spec(None, None, {"size_px": 1, "steps": 1, **self.options})
        except (TypeError, InvalidRequest) as error:
            raise WorkloadError(f"{self.name}: options: {error}") from None


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True)
class Request:
    """One request: its class and all its values except its id. Requests with the same key are identical."""

    entry: Entry
    key: str
    content: bytes = field(repr=False)
    style: bytes = field(repr=False)
    options: Mapping[str, Any]


class Workload:
    """Draws requests from a mix.

    Args:
        entries: The classes.
        seed: The same seed draws the same requests in the same order.

    Raises:
        WorkloadError: If an entry cannot be used.
    """

    def __init__(self, entries: tuple[Entry, ...] = (Entry(),), seed: int = 0) -> None:
        if not entries:
            raise WorkloadError("the workload has no entry")
        for name, often in Counter(entry.name for entry in entries).items():
            if often > 1:  # results are compared by name
                raise WorkloadError(f"{name}: {often} entries have this name")
        self.entries = entries
        self._rng = random.Random(f"{seed}/workload")  # noqa: S311 - nothing is secret here
        self._pictures: dict[str, list[bytes]] = {}
        for entry in entries:
            for place in (entry.content, entry.style):
                self._pictures.setdefault(place, _pictures(place, entry.name))

    def draw(self) -> Request:
        """Return the next request."""
        entry = self._rng.choices(self.entries, [entry.weight for entry in self.entries])[0]
        return self._request(entry, self._rng.randrange(entry.variants))

    def samples(self) -> list[Request]:
        """Return one request of each class and size, to validate them before the run."""
        return [
            self._request(entry, variant)
            for entry in self.entries
            if entry.call == "job"
            for variant in range(min(entry.variants, len(entry.size_px)))
        ]

    def _request(self, entry: Entry, variant: int) -> Request:
        size = entry.size_px[variant % len(entry.size_px)]
        contents, styles = self._pictures[entry.content], self._pictures[entry.style]
        content = contents[variant % len(contents)]
        style = styles[(variant + 1) % len(styles)]
        options: dict[str, Any] = {"size_px": size, "steps": entry.steps, "seed": variant, **entry.options}
        if entry.preset:
            options["preset"] = entry.preset
        return Request(entry, f"{entry.name}/{variant}", content, style, options)


def read_workload(path: Path, seed: int = 0) -> Workload:
    """Return the workload in a file.

    Raises:
        WorkloadError: If it cannot be read, or an entry is invalid.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise WorkloadError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WorkloadError(f"{path}: is not a text file") from None
    except ValueError as error:
        raise WorkloadError(f"{path}: {error}") from None
    tables = values.get("entry")
    if set(values) != {"entry"} or not isinstance(tables, list) or not all(isinstance(item, dict) for item in tables):
        raise WorkloadError(f"{path}: must contain [[entry]] tables and nothing else")
    entries = tuple(_entry(path, number, item) for number, item in enumerate(tables))
    try:
        return Workload(entries, seed)
    except WorkloadError as error:
        raise WorkloadError(f"{path}: {error}") from None


def _entry(path: Path, number: int, values: dict[str, Any]) -> Entry:
    name = str(values.get("name", f"entry{number}"))
    unknown = set(values) - set(Entry.__dataclass_fields__)
    if unknown:
        raise WorkloadError(
            f"{path}: {name} has unknown {', '.join(sorted(unknown))}; valid: {', '.join(Entry.__dataclass_fields__)}"
        )
    size = values.get("size_px", Entry.size_px)
    for place in ("content", "style"):
        if isinstance(values.get(place), str) and values[place]:
            values[place] = str(path.parent / values[place])
    try:
        return Entry(**{**values, "name": name, "size_px": tuple(size) if isinstance(size, list | tuple) else (size,)})
    except WorkloadError as error:
        raise WorkloadError(f"{path}: {error}") from None


def _pictures(place: str, name: str) -> list[bytes]:
    """Return pictures from a file or a folder, or generated ones."""
    if not place:
        return [_drawn(number) for number in range(4)]
    path = Path(place)
    files = sorted(item for item in path.iterdir() if item.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
    try:
        found = [file.read_bytes() for file in files]
    except OSError as error:
        raise WorkloadError(f"{name}: {error.filename}: {error.strerror}") from None
    if not found:
        raise WorkloadError(f"{name}: no picture in {path}")
    return found


def _drawn(seed: int) -> bytes:
    """Return a picture of random shapes, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311
    image = Image.new("RGB", (_DRAWN_PX, _DRAWN_PX * 3 // 4), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, size = rng.randrange(_DRAWN_PX), rng.randrange(_DRAWN_PX), rng.randrange(10, 80)
        box = (x - size, y - size, x + size, y + size)
        if rng.random() < 0.5:
            draw.ellipse(box, _colour(rng))
        else:
            draw.arc(box, rng.randrange(180), rng.randrange(180, 360), _colour(rng), width=rng.randrange(2, 9))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)
