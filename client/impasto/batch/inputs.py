"""Which pictures a batch paints: files, folders, globs and lists become pairs, and each pair gets the name of its output."""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import itertools
import json
import os
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from impasto.batch.manifest import NAME as MANIFEST
from impasto.display import shown
from impasto.errors import InvalidRequest
from impasto.pictures import SUFFIXES
from impasto.protobuf_fields import invalid
from impasto.requests import Style

DEFAULT_TEMPLATE = "{photo}-{style}.png"
FORMATS: Mapping[str, str] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Formats of outputs by the ending of the name."""
COLUMNS = ("output", "mask", "style_mask", "style_region")
"""Columns that a CSV file of pairs may have beside ``photo`` and ``style``; an empty value is none."""
_SEPARATORS = ",;\t"
"""Between the values of a CSV file, by its first line: spreadsheets write semicolons where commas are in numbers."""
_LONGEST_NAME = 240
"""Bytes of a file's name that every file system takes, with room for the name of a temporary file."""
_HASHED = 8
"""Hexadecimal digits that tell shortened names apart."""
_SHOWN = 3
LONGEST_PATH = 4096
"""Characters of a path that messages show."""


@dataclass(frozen=True)
class Pair:
    """A photo, its style or styles, and the name of the picture that they become.

    Attributes:
        photo: File of the content.
        styles: The styles, one or several that are mixed; their pictures are paths.
        output: Path of the output below the batch's folder, with slashes; no other pair has it.
        options: Options of this pair, beside those of all.
        note: What tells it from the others, beside its name; for people.
        line: Line of the CSV file that has it; 0 if there is none.
    """

    photo: Path
    styles: tuple[Style, ...]
    output: str
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    note: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    @property
    def title(self) -> str:
        """Name of the output, with the note if there is one; safe to print."""
        return shown(f"{self.output} ({self.note})" if self.note else self.output, LONGEST_PATH)

    @property
    def style_files(self) -> list[Path]:
        """Files of the styles."""
        return [Path(str(style.picture)) for style in self.styles]

    @property
    def files(self) -> list[Path]:
        """All files that it is painted from."""
        of_styles = (part for style in self.styles for part in (style.picture, style.mask, style.region))
        return [file for file in (self.photo, *of_styles, *self.options.values()) if isinstance(file, Path)]

    @property
    def style_name(self) -> str:
        """Names of the styles without extension, with a plus sign between those that are mixed."""
        return "+".join(path.stem for path in self.style_files)

    def __str__(self) -> str:
        """Return the files, safe to print: ``photo.jpg with one.jpg + two.jpg``."""
        return f"{shown(self.photo, LONGEST_PATH)} with {shown(' + '.join(map(str, self.style_files)), LONGEST_PATH)}"


def expanded(arguments: Iterable[str], field: str, without: Path | None = None) -> list[Path]:
    """Return the pictures that arguments name, each once: files, folders (without their subfolders) and globs, in order.

    Args:
        arguments: Paths and patterns; ``**`` in a pattern stands for any folders.
        field: Name of the argument, for errors.
        without: Folder whose files are left out of folders and patterns: the outputs.

    Raises:
        InvalidRequest: If a file does not exist, or a folder or a pattern has no pictures; the error names all of them.
    """
    found: dict[Path, None] = {}
    wrong: list[str] = []
    for argument in arguments:
        matches, problem = _matches(argument, without)
        if problem:
            wrong.append(problem)
        found.update(dict.fromkeys(matches))
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise invalid(field, "; ".join(wrong[:_SHOWN]) + more, "UNREADABLE")
    return list(found)


def _matches(argument: str, without: Path | None) -> tuple[list[Path], str]:
    """Return the pictures of one argument, and what is wrong with it."""
    path = Path(argument)
    try:
        if path.is_file():
            return [path], ""
        if path.is_dir():
            if without is not None and path.resolve() == without.resolve():
                return [], f"{argument} is the folder of the outputs"
            inside = sorted(file for file in path.iterdir() if _is_picture(file))
            return inside, "" if inside else f"the folder {argument} has no pictures ({', '.join(SUFFIXES)})"
        if glob.has_magic(argument):
            hidden = without.resolve() if without is not None else None
            files = (Path(name) for name in sorted(glob.glob(argument, recursive=True)))
            inside = [file for file in files if _is_picture(file) and not (hidden and file.resolve().is_relative_to(hidden))]
            return inside, "" if inside else f"no picture matches {argument}"
    except (OSError, ValueError) as error:
        return [], f"{shown(argument)} cannot be read: {getattr(error, 'strerror', None) or error}"
    return [], f"{shown(argument)} does not exist"


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def listed(text: str) -> list[str]:
    """Return the paths of a list: one on a line, or separated by NUL as ``find -print0`` writes them."""
    text = text.removeprefix("\ufeff")  # a byte-order mark
    # Not splitlines(): names may have the other characters at which it splits.
    lines = text.split("\0") if "\0" in text else [line.removesuffix("\r") for line in text.split("\n")]
    return [line for line in lines if line.strip()]


def every(photos: Sequence[Path], styles: Sequence[Style], template: str, *, mix: bool = False) -> list[Pair]:
    """Return every photo with every style.

    Args:
        photos: The photos.
        styles: The styles; their pictures are paths.
        template: As for :func:`named`.
        mix: Whether each photo gets all styles together instead.

    Raises:
        InvalidRequest: If the template is invalid or gives two pairs the same name.
    """
    chosen = [tuple(styles)] if mix else [(style,) for style in styles]
    return named([Pair(photo, each, "") for photo in photos for each in chosen], template)


def from_csv(path: Path, template: str) -> list[Pair]:
    """Return the pairs of a CSV file with the columns ``photo`` and ``style``, and optionally those of :data:`COLUMNS`.

    A relative path is looked for in the file's folder, then in the current folder; where the file is a pipe, only there.

    Raises:
        InvalidRequest: If the file cannot be read, or a row is invalid; the error names its line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()  # a pipe cannot be read again
            rows = csv.DictReader(itertools.chain([first], file), delimiter=max(_SEPARATORS, key=first.count))
            return named(list(_rows(rows, path)), template, path)
    except OSError as error:
        raise invalid("pairs", f"{path}: {error.strerror}", "UNREADABLE") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise invalid("pairs", f"{path}: is not a CSV file in UTF-8: {error}") from None


def _rows(rows: csv.DictReader[str], path: Path) -> Iterator[Pair]:
    names = list(rows.fieldnames or ())
    missing = [name for name in ("photo", "style") if name not in names]
    unknown = [name for name in names if name not in ("photo", "style", *COLUMNS)]
    if missing or unknown:
        text = f"the columns are photo, style and optionally {', '.join(COLUMNS)}, with commas, semicolons or tabs between"
        raise invalid("pairs", f"{path}: {text}; got {shown(', '.join(names)) or 'none'}")
    folders = list(dict.fromkeys((path.parent, Path()) if path.is_file() else (Path(),)))
    for row in rows:
        if None in row or None in row.values():
            raise invalid("pairs", f"{path}, line {rows.line_num}: has not {len(names)} values")
        files: dict[str, Path] = {}
        for name in ("photo", "style", "mask", "style_mask", "style_region"):
            if row.get(name) or name in ("photo", "style"):
                found = next((folder / row[name] for folder in folders if (folder / row[name]).is_file()), None)
                if found is None:
                    where = (
                        f" in {folders[0]}, the folder of the CSV file, or in the current folder" if len(folders) > 1 else ""
                    )
                    text = f"{name} {shown(row[name])!r} does not exist{where}"
                    raise invalid("pairs", f"{path}, line {rows.line_num}: {text}", "UNREADABLE")
                files[name] = found
        style = Style(files["style"], mask=files.get("style_mask"), region=files.get("style_region"))
        options = {"mask": files["mask"]} if "mask" in files else {}
        yield Pair(files["photo"], (style,), row.get("output") or "", options, line=rows.line_num)


def named(pairs: Sequence[Pair], template: str, table: Path | None = None) -> list[Pair]:
    """Return pairs with the names of their outputs, in one spelling: without ``.`` and doubled slashes.

    Names by :data:`DEFAULT_TEMPLATE` that are too long for a file system are shortened.

    Args:
        pairs: The pairs; the output of some may be empty.
        template: Name of those, with ``{photo}``, ``{style}`` (names without extension, ``one+two`` for a mix),
            ``{photo_folder}``, ``{style_folder}`` (of the first style) and ``{index}`` (from 1; ``{index:04}`` with zeros).
        table: The CSV file of the pairs, for errors.

    Raises:
        InvalidRequest: If a name is invalid, or two pairs have the same; if the CSV file gave it, the error names its line.
    """
    _check_template(template)
    taken: dict[str, Pair] = {}
    given: dict[str, bool] = {}
    for index, each in enumerate(pairs, start=1):
        pair = replace(each, output=PurePath(each.output or _filled(template, each, index)).as_posix())
        if template == DEFAULT_TEMPLATE and not each.output and _is_long(pair.output):
            pair = replace(pair, output=_short(pair))
        where, name = f"{table}, line {pair.line}", shown(pair.output)
        if wrong := _wrong_name(pair.output):
            if each.output and each.line:
                raise invalid("pairs", f"{where}: output {name!r} {wrong}")
            raise InvalidRequest(f"name: {name!r} {wrong}; see --name", reason="INVALID_FIELD")
        key = pair.output.casefold()  # some file systems ignore case
        other, other_given = taken.setdefault(key, pair), given.setdefault(key, bool(each.output))
        if (other, other.options) == (pair, pair.options):  # the same line a second time
            continue
        if pair.line and (each.output or other_given):
            by = "" if each.output else ", by --name,"
            raise invalid("pairs", f"{where}: output {name!r}{by} is also that of line {other.line} ({other})")
        text = f"{name} would be the output of {other} and of {pair}"
        raise invalid("name", f"{text}; use {{photo_folder}}, {{style_folder}} or {{index}} in --name")
    return list(taken.values())


def check_outputs(pairs: Sequence[Pair], folder: Path, others: Iterable[Path] = (), *, sheet: str = "") -> None:
    """Refuse outputs that would replace a file that the pictures are painted from, the manifest or the contact sheet.

    Args:
        pairs: The pairs, with names.
        folder: Folder of the outputs.
        others: Files that are read beside those of the pairs.
        sheet: Name of the contact sheet, which is written beside the outputs; empty if none is.

    Raises:
        InvalidRequest: If there is one; the error names it.
    """
    for pair in pairs:
        first = PurePosixPath(pair.output).parts[0].casefold()
        if first in (MANIFEST, sheet):
            advice = "; see --name, --no-sheet" if first == sheet else "; see --name"
            raise invalid("pairs" if pair.line else "name", f"{_about(pair)} is the name of a file of the run's own{advice}")
    inputs: dict[object, Path] = {}
    for path in dict.fromkeys(itertools.chain((file for pair in pairs for file in pair.files), others)):
        inputs.update(dict.fromkeys(_identities(path), path))
    written = {pair.output: _about(pair) for pair in pairs} | (
        {sheet: f"the contact sheet {sheet} (see --no-sheet)"} if sheet else {}
    )
    for name, what in written.items():
        source = next((inputs[key] for key in _identities(folder / name) if key in inputs), None)
        if source is not None:
            text = f"{what} would replace {shown(source, LONGEST_PATH)}, which the run reads"
            raise invalid("name", f"{text}; choose another folder or name")


def _about(pair: Pair) -> str:
    """Return the output and the files of a pair, with its line if a CSV file has it."""
    line = f"line {pair.line}: " if pair.line else ""
    return f"{line}{pair.title}, the output of {pair},"


def _identities(path: Path) -> Iterator[object]:
    """Yield what is equal for two paths to one file: where links lead, and the number of a file that exists."""
    yield os.path.realpath(path)
    with contextlib.suppress(OSError, ValueError):
        status = path.stat()
        yield status.st_dev, status.st_ino


_FIELDS = ("photo", "style", "photo_folder", "style_folder", "index")


def _filled(template: str, pair: Pair, index: int) -> str:
    values: dict[str, Any] = {
        "photo": pair.photo.stem,
        "style": pair.style_name,
        "photo_folder": pair.photo.absolute().parent.name or "root",
        "style_folder": pair.style_files[0].absolute().parent.name or "root",
        "index": index,
    }
    return template.format_map(values)


def _short(pair: Pair) -> str:
    """Return the name by :data:`DEFAULT_TEMPLATE`, shortened: what fits of photo and style, and a hash of their names."""
    names = [pair.photo.name, *(path.name for path in pair.style_files)]
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:_HASHED]
    room = _LONGEST_NAME - len(f"--{digest}.png")
    photo, style = pair.photo.stem, pair.style_name
    of_style = max(room // 2, room - len(os.fsencode(photo)))
    style = _cut(style, of_style)
    return f"{_cut(photo, room - len(os.fsencode(style)))}-{style}-{digest}.png"


def _cut(name: str, most: int) -> str:
    """Return as many of a name's first characters as have a number of bytes."""
    sizes = itertools.accumulate(len(os.fsencode(character)) for character in name)
    return name[: sum(size <= most for size in sizes)]


def _is_long(name: str) -> bool:
    return any(len(os.fsencode(part)) > _LONGEST_NAME for part in PurePosixPath(name).parts)


def _check_template(template: str) -> None:
    try:
        fields = [(name, spec, kind) for _, name, spec, kind in string.Formatter().parse(template) if name is not None]
        for name, spec, kind in fields:
            if name not in _FIELDS or kind or (spec and name != "index"):
                valid = ", ".join(f"{{{field}}}" for field in _FIELDS)
                raise invalid("name", f"{shown(template)!r} has {{{shown(name)}}}; the fields are {valid}")
        _filled(template, Pair(Path("photo"), (Style(Path("style")),), ""), 1)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise invalid("name", f"{shown(template)!r} is not a template: {error}") from None


def _wrong_name(name: str) -> str:
    """Return why an output's name leads to no file below the batch's folder; empty if it does."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or Path(name).is_absolute() or os.path.splitdrive(name)[0]:
        return "must lie below the folder of the outputs"
    if path.suffix.lower() not in FORMATS:
        return f"must end in {', '.join(FORMATS)}"
    if _is_long(name):
        return f"is longer than {_LONGEST_NAME} bytes"
    return ""
