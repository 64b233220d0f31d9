"""Bodies as requests: forms with files for people and curl, the contract's JSON mapping for programs."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from starlette.datastructures import FormData, UploadFile

from impasto import text_values
from impasto.errors import InvalidRequest
from impasto.pictures import NamedFile, Picture, UploadedImage
from impasto.protobuf_fields import Problems, invalid, together
from impasto.requests import Options, Style, file_quality, job_spec
from impasto.v1 import style_transfer_pb2 as pb
from impasto.web import json_fields
from impasto.web.multipart import read_form
from impasto.web.statuses import HttpError

Asked = TypeVar("Asked", pb.SubmitJobRequest, pb.StylizeRequest)
FORM, JSON = "multipart/form-data", "application/json"
MAX_JSON_BYTES = 8 << 20
"""JSON is read into memory, with pictures in base64; forms are not."""
PICTURES = ("content", "style", "style_mask", "style_region", "mask", "init_image")
_STYLES = ("style", "style_share", "style_mask", "style_region")
_CALL = ("request_id", "validate_only")
OPTIONS = tuple(name for name in Options.__annotations__ if name not in PICTURES)
"""Options that forms take as text, by the client's names."""
_FIELDS = (*PICTURES, "style_share", *OPTIONS)
_UPLOADED = "sha256:"


@dataclass(frozen=True)
class Body:
    """A body that was read: a form, whose files may lie on the disk, or JSON."""

    form: FormData | None = None
    json: bytes = b""

    async def message(self, kind: type[Asked], request_id: str = "") -> Asked:
        """Return the message that the body is. It holds the pictures in memory.

        Args:
            kind: The message, with a spec and a request_id.
            request_id: The id in the path, if there is one.

        Raises:
            InvalidRequest: If fields are invalid; the error names all of them.
        """
        asked = from_json(self.json, kind()) if self.form is None else await _from_form(self.form, kind)
        if request_id and asked.request_id not in ("", request_id):
            raise invalid("request_id", f"is {asked.request_id!r} in the body and {request_id!r} in the path")
        asked.request_id = request_id or asked.request_id
        return asked


@contextlib.asynccontextmanager
async def read_body(request: Request) -> AsyncIterator[Body]:
    """Read a body, and release its files at the end.

    Raises:
        HttpError: If it is of another type, a form that is damaged, or JSON of more than :data:`MAX_JSON_BYTES`.
    """
    media = media_of(request)
    if media == JSON:
        yield Body(json=await read_json(request))
    elif media == FORM:
        async with read_form(request) as form:
            yield Body(form)
    else:
        raise HttpError(415, "MEDIA_TYPE_UNKNOWN", f"the body must be {FORM} or {JSON}, got {media or 'none'}")


def media_of(request: Request) -> str:
    """Return the media type that a request says its body has, without parameters; empty if it says none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request) -> bytes:
    """Return a body that is held in memory.

    Raises:
        HttpError: If it is larger than JSON needs to be.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_JSON_BYTES:
            text = f"a body in JSON may have {MAX_JSON_BYTES} bytes; send pictures as files of a form, or with PUT /v1/images"
            raise HttpError(413, "BODY_TOO_LARGE", text)
    return bytes(data)


def from_json(body: bytes, message: Any) -> Any:
    """Fill a message from its JSON mapping.

    Raises:
        InvalidRequest: If the body is not that; the error names all invalid fields.
    """
    text = body.decode(errors="replace")
    try:
        return json_format.Parse(body.decode(), message)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if wrong := json_fields.violations(text, message.DESCRIPTOR):
            raise together([invalid(item.field, item.description) for item in wrong]) from None
        lines = str(error).splitlines() or [type(error).__name__]
        raise InvalidRequest(
            f"the body is not {message.DESCRIPTOR.name} in JSON: {lines[0][:300]}", reason="MESSAGE_GARBLED"
        ) from None


async def _from_form(form: FormData, kind: type[Asked]) -> Asked:
    read = await _read(form)
    asked = kind()
    own: Any = asked.DESCRIPTOR.fields_by_name
    known = {*_FIELDS, *(name for name in _CALL if name in own)}
    collect = Problems()
    collect.found += [_unknown(name, known) for name in read.names if name not in known]
    options = {name: collect(_value, name, read.text(name)) for name in OPTIONS if read.has(name)}
    styles = _styles(read, collect)
    options |= {name: collect(read.picture, name) for name in ("mask", "init_image") if read.has(name)}
    content = collect(read.picture, "content")
    for name in _CALL:
        if name in known and read.has(name):
            value = collect(_typed, name, read.text(name), own[name])
            if value is not None:
                setattr(asked, name, value)
    given = {name: value for name, value in options.items() if value is not None}
    # What was found so far does not hide what the specification finds.
    spec = await asyncio.to_thread(collect, job_spec, content, styles or None, given)
    collect.check()
    asked.spec.CopyFrom(spec)
    return asked


@dataclass
class _Form:
    """A form's fields: texts and files in their order, by the client's names."""

    values: dict[str, list[str | NamedFile]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.values)

    def has(self, name: str) -> bool:
        """Whether a field was sent and is not empty: forms in pages send fields that nobody filled in."""
        return any(value != "" for value in self.values.get(name, ()))

    def text(self, name: str) -> str:
        value = next(value for value in self.values[name] if value != "")
        if not isinstance(value, str):
            raise invalid(name, "is a file; it must be text")
        return value

    def picture(self, name: str, index: int | None = None) -> Picture | None:
        """Return a file, or the uploaded file that a text names; None for an empty one."""
        values = self.values.get(name, [])
        label = name if index is None else f"{name}[{index}]"
        if index is None and len(values) > 1:
            raise invalid(name, "was sent more than once")
        if (index or 0) >= len(values):
            return None
        value = values[index or 0]
        if not isinstance(value, str):
            return value
        if value and not value.startswith(_UPLOADED):
            raise invalid(label, f"must be a file, or {_UPLOADED}HEX for an uploaded one")
        return UploadedImage(value.removeprefix(_UPLOADED)) if value else None


async def _read(form: FormData) -> _Form:
    found = _Form()
    for key, value in form.multi_items():
        name = _NAMES.get(key, key)
        if isinstance(value, UploadFile):
            data = await value.read()
            # A page sends an empty file for an input that nobody used.
            kept: str | NamedFile = NamedFile(data, value.filename or "") if data or value.filename else ""
        else:
            kept = value
        found.values.setdefault(name, []).append(kept)
    return found


def _styles(form: _Form, collect: Problems) -> list[Style]:
    count = len(form.values.get("style", ()))
    for name in _STYLES[1:]:
        if len(form.values.get(name, ())) > count:
            collect.found.append(invalid(name, f"was sent more often than style, of which there are {count}"))
    found = []
    for index in range(count):
        picture = collect(form.picture, "style", index)
        mask, region = collect(form.picture, "style_mask", index), collect(form.picture, "style_region", index)
        weight = collect(_weight, form, index)
        if picture is not None:
            found.append(Style(picture, weight, mask, region))
    return found


def _weight(form: _Form, index: int) -> float | None:
    given = form.values.get("style_share", [])
    text = given[index] if index < len(given) else ""
    if not isinstance(text, str):
        raise invalid(f"style_share[{index}]", "is a file; it must be a number")
    return _number(float, f"style_share[{index}]", text) if text else None


def _value(name: str, text: str) -> Any:
    """Return an option's value."""
    if name.endswith("_layers") or name == "schedule":
        parse = text_values.schedule if name == "schedule" else text_values.layer_weights
        try:
            return parse(text)
        except ValueError as error:
            raise invalid(f"parameters.{name}", str(error)) from None
    if name == "labels":
        try:
            return json.loads(text)  # its kind is checked with the other options
        except (ValueError, RecursionError):
            raise invalid(name, f'must be an object in JSON, such as {{"album": "norway"}}, got {text[:80]!r}') from None
    if name in ("time_limit_s", "ttl_s"):
        return _number(float, name.removesuffix("_s"), text)
    path, descriptor = option_field(name)
    return text.strip().lower() if descriptor.enum_type else _typed(path, text, descriptor)


def option_field(name: str) -> tuple[str, Any]:
    """Return the path and the descriptor of the field that an option sets."""
    for prefix, message in (("parameters.", pb.Parameters), ("output.", pb.OutputOptions), ("", pb.JobSpec)):
        found = message.DESCRIPTOR.fields_by_name.get(name)
        if found is not None:
            return prefix + name, found
    raise KeyError(name)


def _typed(path: str, text: str, descriptor: Any) -> Any:
    kind = descriptor.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        words = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
        if text.strip().lower() not in words:
            raise invalid(path, f"must be true or false, got {text!r}")
        return words[text.strip().lower()]
    if path == "output.quality":
        file_quality(text, path)
    if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
        return _number(int, path, text)
    return _number(float, path, text) if kind == FieldDescriptor.CPPTYPE_DOUBLE else text


def _number(kind: Callable[[str], Any], path: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise invalid(path, f"must be {'a whole number' if kind is int else 'a number'}, got {text[:80]!r}") from None


def _unknown(name: str, known: set[str]) -> InvalidRequest:
    close = difflib.get_close_matches(name, known, 1)
    return invalid(name[:80], "is not a field" + (f"; did you mean {close[0]}?" if close else "; /docs lists the fields"))


def _json_names() -> Mapping[str, str]:
    """Return the client's name by its form in the JSON mapping, such as size_px by sizePx."""
    camel = {}
    for name in (*_FIELDS, *_CALL):
        first, *others = name.split("_")
        camel[first + "".join(part.capitalize() for part in others)] = name
    return camel | {"timeLimit": "time_limit_s", "time_limit": "time_limit_s", "ttl": "ttl_s"}


_NAMES = _json_names()
