"""Reproduces a picture from the metadata in its file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from PIL import Image, UnidentifiedImageError

from impasto.display import shown
from impasto.errors import InvalidRequest
from impasto.pictures import CONVERTED, SUFFIXES, TAKEN, NamedFile, Picture, UploadedImage, format_of, to_bytes
from impasto.requests import Style

FORMAT = 1
"""Version of the metadata that this client can read."""
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_LONGEST, _LONGEST_NAME, _MOST = 65_535, 255, 64
_LARGEST_BYTES = 64 << 20
"""Servers do not accept pictures larger than this."""
_PROGRAMS = ("impasto", "torch")
_VERSION = re.compile(r"[0-9A-Za-z.+!_-]{1,64}")
_ROLE = re.compile(r"content|mask|init_image|styles\[\d{1,2}\]\.(image|mask|region)")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Circumstances:
    """What the pixels of a picture depend on beside its recipe.

    Attributes:
        threads: Threads that painted it; 0 if unknown.
        versions: Versions of impasto and torch; without those that are unknown.
    """

    threads: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    def differences(self, other: Circumstances) -> Iterator[str]:
        """Yield, in words, how those of another picture differ, as far as both are known."""
        if self.threads and other.threads and self.threads != other.threads:
            many = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            yield f"the picture was painted with {many}, and this one with {other.threads}: sums differ, so pixels may differ"
        for name, old in self.versions.items():
            new = other.versions.get(name, old)
            if old != new:
                yield f"the picture was painted with {name} {old}, and this one with {new}: pixels may differ"


@dataclass(frozen=True)
class Recipe:
    """How a picture was made: arguments of :meth:`impasto.Client.stylize`.

    Attributes:
        content: The content image, if there was one.
        styles: The styles.
        options: Everything else.
        missing: Names of the pictures that were not found locally; the server's uploads are used for them.
        weights_sha256: Hash of the weights that painted it.
        circumstances: What else its pixels depend on.
        ended_after_steps: Steps after which a time limit ended it; the new picture has all steps. None if it had them all.
    """

    content: Picture | None
    styles: list[Style]
    options: dict[str, Any]
    weights_sha256: str
    ended_after_steps: int | None = None
    missing: tuple[str, ...] = ()
    circumstances: Circumstances = Circumstances()


def circumstances_of(picture: bytes) -> Circumstances:
    """Return the circumstances in a picture's metadata; all unknown if there are none."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return _circumstances(_metadata(image))
    except Exception:  # no metadata, or metadata of another program
        return Circumstances()


def _circumstances(values: Mapping[str, Any]) -> Circumstances:
    threads, versions = values.get("threads", 0), values.get("versions", {})
    known = threads if isinstance(threads, int) and 0 < threads < 100_000 else 0
    found = {name: versions.get(name) for name in _PROGRAMS} if isinstance(versions, dict) else {}
    named = {name: version for name, version in found.items() if isinstance(version, str) and _VERSION.fullmatch(version)}
    return Circumstances(known, named)


def _metadata(image: Image.Image) -> dict[str, Any]:
    """Return the values in a picture's user comment; empty if impasto did not write it."""
    if image.format == "PNG" and "exif" not in image.info:
        return {}  # impasto writes it before the pixels; Pillow would decode them to look behind them
    comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
    text = comment if isinstance(comment, bytes) else str(comment).encode()
    try:
        values = json.loads(text[:_LONGEST].removeprefix(b"ASCII\0\0\0"))
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def provenance(path: Path) -> dict[str, Any]:
    """Return the metadata in a picture's file on how it was made. The file is not trusted.

    Raises:
        InvalidRequest: If it cannot be read, or has no metadata that this client understands.
    """
    return _provenance(path, path)


def _provenance(file: Path | IO[bytes], name: object) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                values = _metadata(image)
    except UnidentifiedImageError:  # its text has the file's path, or the object in memory
        raise _unusable(name, _unidentified(file)) from None
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        raise _unusable(name, f"cannot be read: {shown(error)}") from None
    if "impasto" not in values:
        raise _unusable(name, "has no metadata on how it was made; impasto did not paint it, or the metadata was omitted")
    if values["impasto"] != FORMAT:
        raise _unusable(name, f"its metadata has format {shown(values['impasto'], 20)}; this client reads format {FORMAT}")
    return values


def _unidentified(file: Path | IO[bytes]) -> str:
    """Return what is wrong with a file that Pillow does not recognise."""
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
        opened.seek(0)
        head = opened.read(64)
    kind = format_of(head)
    if kind:
        return f"is a {kind} file that cannot be read"
    return f"is not a {TAKEN} picture" if head else "is empty"


def description(path: Path) -> dict[str, Any]:
    """Return what made a picture, as JSON-compatible values: only what impasto writes, checked as for :func:`recipe`.

    Raises:
        InvalidRequest: If the file has no metadata on how it was made, or the metadata is invalid.
    """
    values = provenance(path)
    try:
        sources = [_source(source) for source in _list(values, "sources")]
        made = _recipe(values, ())
    except _InvalidMetadata as error:
        raise _invalid(path, error) from None
    return {
        "sources": [{"role": role, "name": source.name, "sha256": source.sha256} for role, source in sources],
        "style_weights": [style.weight for style in made.styles],
        "parameters": _checked(values, "parameters", _PARAMETERS),
        "output": _checked(values, "output", _OUTPUT),
        "weights_sha256": made.weights_sha256,
        "threads": made.circumstances.threads,
        "versions": made.circumstances.versions,
        "ended_after_steps": made.ended_after_steps,
    }


def recipe(path: Path, search: Iterable[Path] = ()) -> Recipe:
    """Return how to reproduce a picture.

    Its source pictures are found by their hash: among the given files, and in the given folders, the picture's folder and the
    current folder. Any others are assumed to be uploaded on the server. Nothing in the file is used as a path: only the last
    part of a name counts. Settings are accepted only if they affect the picture.

    Raises:
        InvalidRequest: If the file has no metadata on how it was made, or the metadata is invalid.
    """
    values = provenance(path)
    try:
        return _recipe(values, [*search, path.parent, Path()])
    except _InvalidMetadata as error:
        raise _invalid(path, error) from None


def recipe_of(file: IO[bytes], name: str) -> Recipe:
    """Return how to reproduce a picture, given its open file. No other file is searched: all sources are uploads on the server.

    Args:
        file: The picture's file, open in binary mode.
        name: What errors call it.

    Raises:
        InvalidRequest: As for :func:`recipe`.
    """
    values = _provenance(file, name)
    try:
        return _recipe(values, ())
    except _InvalidMetadata as error:
        raise _invalid(name, error) from None


def _recipe(values: Mapping[str, Any], places: Iterable[Path]) -> Recipe:
    wanted = dict(_source(source) for source in _list(values, "sources"))
    found = _find({source.sha256: source.name for source in wanted.values()}, places)

    def picture(role: str) -> Picture | None:
        source = wanted.get(role)
        if source is None:
            return None
        known = source.sha256 in found
        return NamedFile(found[source.sha256], source.name) if known else UploadedImage(source.sha256, source.name)

    styles = []
    for index, weight in enumerate(_list(values, "style_weights")):
        image = picture(f"styles[{index}].image")
        if image is None:
            raise _InvalidMetadata(f"style {index} is missing")
        number = _number("style_weights", weight)
        styles.append(Style(image, number, picture(f"styles[{index}].mask"), picture(f"styles[{index}].region")))
    options = {**_options(_checked(values, "parameters", _PARAMETERS)), **_checked(values, "output", _OUTPUT)}
    options |= {name: file for name in ("mask", "init_image") if (file := picture(name)) is not None}
    ended, weights = values.get("ended_after_steps"), values.get("weights_sha256", "")
    ended = None if ended is None else _whole("ended_after_steps", ended)
    missing = tuple(source.name or role for role, source in wanted.items() if source.sha256 not in found)
    return Recipe(picture("content"), styles, options, _word("weights_sha256", weights), ended, missing, _circumstances(values))


class _InvalidMetadata(Exception):
    """Metadata in a file that impasto does not write; the message says what."""


@dataclass(frozen=True)
class _Source:
    name: str
    sha256: str


def _source(value: Any) -> tuple[str, _Source]:
    if not isinstance(value, dict):
        raise _InvalidMetadata("a source is not an object")
    role, name, digest = (value.get(key) for key in ("role", "name", "sha256"))
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise _InvalidMetadata(f"a source has the role {shown(role, 40)}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise _InvalidMetadata(f"the source of {role} has no valid SHA-256")
    # Only the last part of what may be a path of any system, without control characters for a terminal.
    base = shown(re.split(r"[/\\]", name)[-1], _LONGEST_NAME) if isinstance(name, str) else ""
    return role, _Source("" if base in (".", "..") else base, digest)


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list) or len(found) > _MOST:
        raise _InvalidMetadata(f"{name} is not a list of at most {_MOST}")
    return found


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _InvalidMetadata(f"{name} is not a number")
    return float(value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise _InvalidMetadata(f"{name} is not a whole number")
    return value


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise _InvalidMetadata(f"{name} is not a valid text")
    return value


def _weights(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > _MOST:
        raise _InvalidMetadata(f"{name} is not a mapping of layers to weights")
    return {_word(name, layer): _number(name, weight) for layer, weight in value.items()}


def _schedule(name: str, value: Any) -> list[tuple[int, int]]:
    if (
        not isinstance(value, list)
        or len(value) > _MOST
        or not all(isinstance(item, list) and len(item) == 2 for item in value)
    ):
        raise _InvalidMetadata(f"{name} is not a list of sizes and steps")
    return [(_whole(name, size), _whole(name, steps)) for size, steps in value]


_PARAMETERS: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("content_layers", "style_layers"), _weights),
    **dict.fromkeys(("content_weight", "style_weight", "total_variation_weight"), _number),
    **dict.fromkeys(("learning_rate", "style_scale", "tolerance"), _number),
    **dict.fromkeys(("size_px", "steps", "history", "seed", "levels", "width_px", "height_px"), _whole),
    **dict.fromkeys(("normalization", "optimizer", "init", "pooling", "precision", "network", "color", "style_loss"), _word),
    "schedule": _schedule,
}
"""Accepted parameters and how each is checked: those that affect the picture, and none that affect the job's handling."""
_OUTPUT: Mapping[str, Callable[[str, Any], Any]] = {"format": _word, "quality": _whole}


def _checked(values: Mapping[str, Any], name: str, allowed: Mapping[str, Callable[[str, Any], Any]]) -> dict[str, Any]:
    found = values.get(name)
    if not isinstance(found, dict):
        raise _InvalidMetadata(f"{name} is not an object")
    for key in found:
        if key not in allowed:
            raise _InvalidMetadata(f"{name} has an unexpected setting {shown(key, 40)}")
    return {key: allowed[key](key, value) for key, value in found.items()}


def _options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as client options: a schedule replaces sizes and steps, and 0 means no exact size."""
    options = {name: value for name, value in parameters.items() if not (name in ("width_px", "height_px") and not value)}
    if options.get("schedule"):
        for name in ("size_px", "steps", "levels"):
            options.pop(name, None)
    else:
        options.pop("schedule", None)
    return options


def _find(wanted: Mapping[str, str], places: Iterable[Path]) -> dict[str, bytes]:
    """Return files by hash. Given files come first, then files with a matching name, then other pictures in the folders."""
    found: dict[str, bytes] = {}
    for file in _files(places, set(wanted.values())):
        if len(found) == len(wanted):
            break
        try:
            if file.stat().st_size > _LARGEST_BYTES:
                continue
            data = file.read_bytes()
        except OSError:  # another file may match
            continue
        for sent in _as_sent(file, data):
            digest = hashlib.sha256(sent).hexdigest()
            if digest in wanted:
                found.setdefault(digest, sent)
    return found


def _as_sent(file: Path, data: bytes) -> Iterator[bytes]:
    """Yield a file, and what the client sends instead of it, if that differs."""
    yield data
    if file.suffix.lower() in CONVERTED:
        with contextlib.suppress(InvalidRequest):  # it is not a picture, and not one of the sources
            yield to_bytes(data, "picture")


def _files(places: Iterable[Path], names: set[str]) -> Iterator[Path]:
    folders = []
    for place in places:
        if place.is_dir():
            folders.append(place)
        elif place.is_file():
            yield place
    for folder in folders:
        yield from (folder / name for name in sorted(names) if name and _is_file(folder / name))
    for folder in folders:
        yield from sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is invalid on this system
        return False


def _invalid(name: object, error: _InvalidMetadata) -> InvalidRequest:
    return _unusable(name, f"its metadata on how it was made is invalid: {error}")


def _unusable(name: object, text: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: {text}", reason="NO_PROVENANCE")
