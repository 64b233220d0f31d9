"""Making a picture again from what its file says about itself."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.display import shown
from impasto.errors import InvalidRequest
from impasto.pictures import NamedFile, Picture, UploadedImage
from impasto.requests import Style

FORMAT = 1
"""Of what a file says that this client can read."""
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_LONGEST, _LONGEST_NAME, _MOST = 65_535, 255, 64
_LARGEST_BYTES = 64 << 20
"""Larger files are no pictures that a server takes."""
_ROLE = re.compile(r"content|mask|init_image|styles\[\d{1,2}\]\.(image|mask|region)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Recipe:
    """What made a picture: arguments of :meth:`impasto.Client.stylize`.

    Attributes:
        content: The content image, if there was one.
        styles: The styles.
        options: Everything else.
        missing: Names of the pictures that were not found here; the server is asked for them.
        weights_sha256: Hash of the filters that painted it.
        ended_after_steps: Where a time limit ended it, which making it again does not do; None for the whole.
    """

    content: Picture | None
    styles: list[Style]
    options: dict[str, Any]
    weights_sha256: str
    ended_after_steps: int | None = None
    missing: tuple[str, ...] = ()


def provenance(path: Path) -> dict[str, Any]:
    """Return what a picture's file says about how it was made, checked: a stranger's file may say anything.

    Raises:
        InvalidRequest: If it cannot be read, or says nothing that this client understands.
    """
    try:
        with Image.open(path) as image:
            comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        raise _unusable(path, f"cannot be read: {shown(error)}") from None
    text = comment if isinstance(comment, bytes) else str(comment).encode()
    try:
        values = json.loads(text[:_LONGEST].removeprefix(b"ASCII\0\0\0"))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or "impasto" not in values:
        raise _unusable(path, "does not say how it was made; impasto did not paint it, or its metadata were left out")
    if values["impasto"] != FORMAT:
        raise _unusable(
            path, f"says how it was made in format {shown(values['impasto'], 20)}; this client reads format {FORMAT}"
        )
    return values


def recipe(path: Path, search: Iterable[Path] = ()) -> Recipe:
    """Return how to make a picture again.

    Its pictures are looked for by their hash: among the files given, and in the folders given, that of the picture, and the
    current one. What is not found is taken to be among the server's uploaded files. Nothing that the file says is used as a
    path: of names only the last part counts, and settings are taken only if they change the picture.

    Raises:
        InvalidRequest: If the file does not say how it was made, or says something that it cannot.
    """
    values = provenance(path)
    try:
        return _recipe(path, values, search)
    except _Strange as strange:
        raise _unusable(path, f"says how it was made in a way that cannot be understood: {strange}") from None


def _recipe(path: Path, values: Mapping[str, Any], search: Iterable[Path]) -> Recipe:
    wanted = dict(_source(source) for source in _list(values, "sources"))
    found = _find({source.sha256: source.name for source in wanted.values()}, [*search, path.parent, Path()])

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
            raise _Strange(f"it does not name its style {index}")
        number = _number("style_weights", weight)
        styles.append(Style(image, number, picture(f"styles[{index}].mask"), picture(f"styles[{index}].region")))
    options = {**_options(_checked(values, "parameters", _PARAMETERS)), **_checked(values, "output", _OUTPUT)}
    options |= {name: file for name in ("mask", "init_image") if (file := picture(name)) is not None}
    ended, weights = values.get("ended_after_steps"), values.get("weights_sha256", "")
    ended = None if ended is None else _whole("ended_after_steps", ended)
    missing = tuple(source.name or role for role, source in wanted.items() if source.sha256 not in found)
    return Recipe(picture("content"), styles, options, _word("weights_sha256", weights), ended, missing)


class _Strange(Exception):
    """Something in a file that no impasto writes; the message says what."""


@dataclass(frozen=True)
class _Source:
    name: str
    sha256: str


def _source(value: Any) -> tuple[str, _Source]:
    if not isinstance(value, dict):
        raise _Strange("a source is no object")
    role, name, digest = (value.get(key) for key in ("role", "name", "sha256"))
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise _Strange(f"a source has the role {shown(role, 40)}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise _Strange(f"the source of {role} has no SHA-256")
    # The last part of what may be a path of any system, and nothing that a terminal would act on.
    base = shown(re.split(r"[/\\]", name)[-1], _LONGEST_NAME) if isinstance(name, str) else ""
    return role, _Source("" if base in (".", "..") else base, digest)


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list) or len(found) > _MOST:
        raise _Strange(f"{name} is no list of at most {_MOST}")
    return found


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _Strange(f"{name} is no number")
    return float(value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise _Strange(f"{name} is no whole number")
    return value


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise _Strange(f"{name} is no word")
    return value


def _weights(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > _MOST:
        raise _Strange(f"{name} are no layers with weights")
    return {_word(name, layer): _number(name, weight) for layer, weight in value.items()}


def _schedule(name: str, value: Any) -> list[tuple[int, int]]:
    if (
        not isinstance(value, list)
        or len(value) > _MOST
        or not all(isinstance(item, list) and len(item) == 2 for item in value)
    ):
        raise _Strange(f"{name} is no list of sizes and steps")
    return [(_whole(name, size), _whole(name, steps)) for size, steps in value]


_PARAMETERS: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("content_layers", "style_layers"), _weights),
    **dict.fromkeys(("content_weight", "style_weight", "total_variation_weight"), _number),
    **dict.fromkeys(("learning_rate", "style_scale", "tolerance"), _number),
    **dict.fromkeys(("size_px", "steps", "history", "seed", "levels", "width_px", "height_px"), _whole),
    **dict.fromkeys(("normalization", "optimizer", "init", "pooling", "precision", "network", "color", "style_loss"), _word),
    "schedule": _schedule,
}
"""What of the parameters is taken, and how it is checked: what paints the picture, and nothing of how a job is treated."""
_OUTPUT: Mapping[str, Callable[[str, Any], Any]] = {"format": _word, "quality": _whole}


def _checked(values: Mapping[str, Any], name: str, allowed: Mapping[str, Callable[[str, Any], Any]]) -> dict[str, Any]:
    found = values.get(name)
    if not isinstance(found, dict):
        raise _Strange(f"{name} is no object")
    for key in found:
        if key not in allowed:
            raise _Strange(f"{name} has a setting {shown(key, 40)}, which does not belong to a picture")
    return {key: allowed[key](key, value) for key, value in found.items()}


def _options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as the client takes them: a schedule stands for sizes and steps, a 0 for no exact size."""
    options = {name: value for name, value in parameters.items() if not (name in ("width_px", "height_px") and not value)}
    if options.get("schedule"):
        for name in ("size_px", "steps", "levels"):
            options.pop(name, None)
    else:
        options.pop("schedule", None)
    return options


def _find(wanted: Mapping[str, str], places: Iterable[Path]) -> dict[str, bytes]:
    """Return files by hash: those given themselves, and in folders those of the right name first."""
    found: dict[str, bytes] = {}
    for file in _files(places, set(wanted.values())):
        if len(found) == len(wanted):
            break
        try:
            if file.stat().st_size > _LARGEST_BYTES:
                continue
            data = file.read_bytes()
        except OSError:  # another file may be the one
            continue
        digest = hashlib.sha256(data).hexdigest()
        if digest in wanted:
            found.setdefault(digest, data)
    return found


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
        yield from sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that the system cannot have
        return False


def _unusable(path: Path, text: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {text}", reason="NO_PROVENANCE")
