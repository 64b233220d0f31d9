"""The cache of filters: for each network, a file of convolutions and a record that describes them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from impasto_engine.architectures import ARCHITECTURES, DEFAULT, random_seed
from impasto_engine.cache import NAME, WeightsError, cached_file, cached_names, is_cached
from impasto_engine.networks import WeightsInfo
from impasto_engine.weights.published import NAMES

RESERVED = ("auto", "builtin")


@dataclass(frozen=True)
class Record:
    """Description of filters in the cache.

    Attributes:
        name: Name shown to users, without the architecture.
        architecture: Architecture of the network.
        sha256: Hash of the cached file.
        source: Origin of the filters: an address, a package, or a file name.
        source_sha256: Hash of the source file.
        what: Training task and data, in a few words; empty if unknown.
        licence: As stated by the publisher; empty if unknown.
        input: How the channel order and the value range were determined.
        mean: Subtracted from RGB values in [0, 1].
        std: Divides the RGB values, per channel.
        unit: See :class:`~impasto_engine.networks.WeightsInfo`.
        as_published: Convolutions that are bit-identical to the published ones; None if there is nothing to compare with.
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
        """Full name, ``ARCHITECTURE:NAME``; VGG16's names omit the architecture."""
        return self.name if self.architecture == DEFAULT else f"{self.architecture}:{self.name}"

    @property
    def info(self) -> WeightsInfo:
        """The description of these filters that results carry."""
        return WeightsInfo(self.name, self.sha256, self.mean, self.std, self.unit)


def check_name(name: str) -> None:
    """Reject an invalid name for filters.

    Raises:
        WeightsError: If the name is reserved or contains characters that are not allowed in a file name.
    """
    if not NAME.fullmatch(name):
        text = "must be 1 to 64 letters, digits, dots, dashes or underscores, and start with a letter or digit"
        raise WeightsError(f"name {name!r} {text}; choose one with --name")
    if name in RESERVED or name in ARCHITECTURES or random_seed(name) is not None:
        raise WeightsError(f"name {name!r} is reserved; choose another with --name")


def write(record: Record, state: Mapping[str, Tensor]) -> Path:
    """Store filters in the cache, replacing any of the same name. The record's hash is filled in.

    Args:
        record: Description of the filters.
        state: State dict with torchvision's keys and RGB channel order.

    Raises:
        WeightsError: If the cache cannot be written.
    """
    target = cached_file(f"{record.architecture}:{record.name}")
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The same filters with another input format are another network, so the format is stored in the file and enters
            # its hash.
            expects = json.dumps([record.architecture, record.mean, record.std, record.unit])
            save_file(dict(state), fresh, {"expects": expects})
            values = {**asdict(record), "sha256": sha256_of(fresh)}
            fresh.chmod(0o644)  # a cache filled by one user may be used by others
            # Write the record first: a crash in between leaves a hash mismatch, which is detected, and never wrong filters.
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
        WeightsError: If the filters are not cached or their record is unreadable.
    """
    path = cached_file(name).with_suffix(".json")
    if not is_cached(name):
        raise WeightsError(f"{name} is not in the cache ({cached_file(name)}); {_remedy(name)}")
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        for key in ("mean", "std"):
            values[key] = tuple(float(number) for number in values[key])
        if values["as_published"] is not None:
            values["as_published"] = tuple(values["as_published"])
        return Record(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path}: not a readable record ({type(error).__name__}); {_remedy(name)}") from error


def cached() -> Iterator[Record]:
    """Yield the readable records of the cache, sorted by name."""
    for name in cached_names():
        try:
            yield read(name)
        except WeightsError:
            continue


def verify(name: str) -> Record:
    """Verify cached filters against the hash recorded when they were written, and return their record.

    Raises:
        WeightsError: If the filters are not cached, or the hash differs.
    """
    record = read(name)
    actual = sha256_of(cached_file(name))
    if actual != record.sha256:
        raise WeightsError(f"{cached_file(name)}: SHA-256 is {actual}, recorded was {record.sha256}; {_remedy(name)}")
    return record


def _remedy(name: str) -> str:
    short = name.removeprefix(f"{DEFAULT}:")
    again = "import them: impasto weights import FILE --replace"
    return f"run: impasto weights download {short}, or {again}" if short in NAMES else again


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
