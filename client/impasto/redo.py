"""Making a picture again from what its file says about itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from impasto.errors import InvalidRequest
from impasto.pictures import NamedFile, Picture, UploadedImage
from impasto.requests import Style

FORMAT = 1
"""Of what a file says that this client can read."""
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
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
    """Return what a picture's file says about how it was made.

    Raises:
        InvalidRequest: If it cannot be read, or says nothing that this client understands.
    """
    try:
        with Image.open(path) as image:
            comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
    except (OSError, UnidentifiedImageError) as error:
        raise _unusable(path, f"cannot be read: {error}") from None
    text = comment if isinstance(comment, bytes) else str(comment).encode()
    try:
        values = json.loads(text.removeprefix(b"ASCII\0\0\0"))
    except ValueError:
        values = None
    if not isinstance(values, dict) or "impasto" not in values:
        raise _unusable(path, "does not say how it was made; impasto did not paint it, or its metadata were left out")
    if values["impasto"] != FORMAT:
        raise _unusable(path, f"says how it was made in format {values['impasto']}; this client reads format {FORMAT}")
    return values


def recipe(path: Path, search: Iterable[Path] = ()) -> Recipe:
    """Return how to make a picture again.

    Its pictures are looked for by their hash: among the files given, and in the folders given, that of the picture, and the
    current one. What is not found is taken to be among the server's uploaded files.

    Raises:
        InvalidRequest: If the file does not say how it was made.
    """
    values = provenance(path)
    try:
        return _recipe(path, values, search)
    except (KeyError, TypeError, AttributeError) as error:
        raise _unusable(path, f"says how it was made in a way that cannot be understood ({error})") from None


def _recipe(path: Path, values: Mapping[str, Any], search: Iterable[Path]) -> Recipe:
    wanted = {source["role"]: source for source in values["sources"]}
    found = _find({source["sha256"]: source["name"] for source in wanted.values()}, [*search, path.parent, Path()])

    def picture(role: str) -> Picture | None:
        source = wanted.get(role)
        if source is None:
            return None
        digest, name = source["sha256"], source["name"]
        return NamedFile(found[digest], name) if digest in found else UploadedImage(digest, name)

    styles = []
    for index, weight in enumerate(values["style_weights"]):
        image = picture(f"styles[{index}].image")
        if image is None:
            raise _unusable(path, f"does not name its style {index}")
        styles.append(Style(image, weight, picture(f"styles[{index}].mask"), picture(f"styles[{index}].region")))
    options = {**_options(values["parameters"]), **values["output"]}
    options |= {name: file for name in ("mask", "init_image") if (file := picture(name)) is not None}
    ended = values.get("ended_after_steps")
    missing = tuple(source["name"] or source["role"] for source in wanted.values() if source["sha256"] not in found)
    return Recipe(picture("content"), styles, options, values.get("weights_sha256", ""), ended, missing)


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
        yield from (folder / name for name in sorted(names) if name and (folder / name).is_file())
    for folder in folders:
        yield from sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())


def _unusable(path: Path, text: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {text}", reason="NO_PROVENANCE")
