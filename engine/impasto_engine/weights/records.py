"""The cache of filters: a file of convolutions for each network, and beside it a record of what they are."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from impasto_engine.architectures import ARCHITECTURES, DEFAULT, random_seed, split
from impasto_engine.networks import WeightsInfo

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What filters may be called."""
RESERVED = ("auto", "builtin")
_SUFFIX = ".safetensors"


class WeightsError(Exception):
    """The filters asked for are missing, damaged or of the wrong shape. The message says what to do."""


@dataclass(frozen=True)
class Record:
    """What is known of filters in the cache.

    Attributes:
        name: What users call them, without the network's name.
        architecture: Whose filters they are.
        sha256: Of the cached file.
        source: Where they are from: an address, a package, or the name of a file.
        source_sha256: Of the file that they were read from.
        what: What they were trained for, in a few words; empty if unknown.
        licence: As their publisher states it; empty if unknown.
        input: How the channel order and the range of the pictures were determined.
        mean: Subtracted from RGB values in [0, 1].
        std: The picture is divided by it, per channel.
        unit: See :class:`~impasto_engine.networks.WeightsInfo`.
        as_published: Convolutions that are the published ones, bit for bit; None where there is nothing to compare with.
    """

    name: str
    architecture: str
    sha256: str
    source: str
    source_sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    unit: float
    what: str = ""
    licence: str = ""
    input: str = ""
    as_published: tuple[str, ...] | None = field(default=None)

    @property
    def id(self) -> str:
        """Full name, ``ARCHITECTURE:NAME``; VGG16's go without the architecture."""
        return self.name if self.architecture == DEFAULT else f"{self.architecture}:{self.name}"

    @property
    def info(self) -> WeightsInfo:
        """What results say about these filters."""
        return WeightsInfo(self.name, self.sha256, self.mean, self.std, self.unit)


def cache_dir() -> Path:
    """Return where filters are kept: ``$IMPASTO_CACHE``, else ``impasto`` in the XDG cache folder."""
    if own := os.environ.get("IMPASTO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "impasto"


def cached_file(name: str) -> Path:
    """Return where the filters of ``[ARCHITECTURE:]NAME`` lie if they are in the cache."""
    architecture, weights = split(name)
    return cache_dir() / f"{architecture}-{weights}{_SUFFIX}"


def is_cached(name: str) -> bool:
    """Whether filters are in the cache. Their record may be missing or unreadable, which `read` reports."""
    return NAME.fullmatch(split(name)[1]) is not None and cached_file(name).is_file()  # else a path, for example


def check_name(name: str) -> None:
    """Refuse a name that filters cannot have.

    Raises:
        WeightsError: If it is reserved or has characters that do not go into a file name.
    """
    if not NAME.fullmatch(name):
        text = "must be 1 to 64 letters, digits, dots, dashes or underscores, and begin with a letter or digit"
        raise WeightsError(f"name {name!r} {text}; choose one with --name")
    if name in RESERVED or name in ARCHITECTURES or random_seed(name) is not None:
        raise WeightsError(f"name {name!r} is reserved; choose another one with --name")


def write(record: Record, state: Mapping[str, Tensor]) -> Path:
    """Keep filters in the cache, in place of what has their name; the record's hash is filled in.

    Args:
        record: What they are.
        state: By torchvision's names, channels in RGB order.

    Raises:
        WeightsError: If the cache cannot be written.
    """
    target = cached_file(f"{record.architecture}:{record.name}")
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The same filters for other pictures are another network: what they expect goes into the file, and so its hash.
            expects = json.dumps([record.architecture, record.mean, record.std, record.unit])
            save_file(dict(state), fresh, {"expects": expects})
            values = {**asdict(record), "sha256": sha256_of(fresh)}
            fresh.chmod(0o644)  # a cache filled by one user serves others
            # The record goes first: a crash in between leaves a hash that does not fit, which is found, never bad filters.
            target.with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n")
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot write to the cache {target.parent}: {error.strerror or error}") from error
    return target


def read(name: str) -> Record:
    """Return the record of filters in the cache.

    Raises:
        WeightsError: If they are not there or their record is unreadable.
    """
    path = cached_file(name).with_suffix(".json")
    if not is_cached(name):
        raise WeightsError(f"{name} is not in the cache ({cached_file(name)}); {_get(name)}")
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        for key in ("mean", "std"):
            values[key] = tuple(float(number) for number in values[key])
        if values["as_published"] is not None:
            values["as_published"] = tuple(values["as_published"])
        return Record(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path}: not a readable record ({type(error).__name__}); {_get(name)}") from error


def cached_names() -> Iterator[str]:
    """Yield ``ARCHITECTURE:NAME`` of all filters in the cache, sorted, whether their records are readable or not."""
    folder = cache_dir()
    for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else ():
        architecture, separator, name = path.stem.partition("-")
        if separator and architecture in ARCHITECTURES and NAME.fullmatch(name):
            yield f"{architecture}:{name}"


def cached() -> Iterator[Record]:
    """Yield the readable records of the cache, by name."""
    for name in cached_names():
        try:
            yield read(name)
        except WeightsError:
            continue


def verify(name: str) -> Record:
    """Return the record of cached filters after comparing the file with the hash recorded when it was written.

    Raises:
        WeightsError: If it is not there, or not what was written.
    """
    record = read(name)
    actual = sha256_of(cached_file(name))
    if actual != record.sha256:
        raise WeightsError(f"{cached_file(name)}: SHA-256 is {actual}, recorded was {record.sha256}; {_get(name)}")
    return record


def _get(name: str) -> str:
    short = name.removeprefix(f"{DEFAULT}:")
    return f"run: impasto weights download {short}, or import them again: impasto weights import FILE --replace"


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
