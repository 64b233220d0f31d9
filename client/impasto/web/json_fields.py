"""Which fields of a body in JSON are invalid: protobuf's own parser stops at the first, and does not name its path."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor

from impasto.errors import Violation
from impasto.protobuf_fields import KINDS
from impasto.web.schemas import is_map, is_repeated

MOST = 50
"""Maximum number of invalid fields that an error names."""
_OUTER = "spec."
"""Paths begin within the specification, as those of the server's errors do."""
_PLAIN: Mapping[int, str] = {**KINDS, FieldDescriptor.CPPTYPE_BOOL: "true or false"}
_KNOWN: Mapping[str, str] = {
    "google.protobuf.Duration": 'seconds as text, such as "1.5s"',
    "google.protobuf.Timestamp": 'a moment as text, such as "2026-01-31T12:00:00Z"',
}
_ERRORS = (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError)


def violations(text: str, descriptor: Any) -> tuple[Violation, ...]:
    """Return the invalid fields of a message in its JSON mapping: at most :data:`MOST`, none if it is no object in JSON.

    Args:
        text: The body.
        descriptor: The message's.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(value, dict):
        return ()
    return tuple(Violation(item.field.removeprefix(_OUTER), item.description) for item in islice(_in(value, descriptor), MOST))


def _in(value: dict[str, Any], descriptor: Any, path: str = "") -> Iterator[Violation]:
    known = {name: field for field in descriptor.fields for name in (field.json_name, field.name)}
    for key, item in value.items():
        field = known.get(key)
        if field is None:
            close = difflib.get_close_matches(key, [field.json_name for field in descriptor.fields], 1)
            hint = f"; did you mean {close[0]}?" if close else "; /docs lists the fields"
            yield Violation((path + key)[:80], f"is not a field of {descriptor.name}{hint}")
        elif item is None:
            continue  # as if it were not given
        elif not _is_list(field):
            yield from _one(item, field, path + field.name)
        elif not isinstance(item, list):
            yield Violation(path + field.name, f"must be a list, got {_shown(item)}")
        else:
            for index, each in enumerate(item):
                yield from _one(each, field, f"{path}{field.name}[{index}]")
    for group in descriptor.oneofs:
        given = [
            field.name for field in group.fields if any(value.get(name) is not None for name in (field.name, field.json_name))
        ]
        if len(given) > 1:
            yield Violation((path + given[1])[:80], f"does not go with {given[0]}; give one of them")


def _one(value: Any, field: Any, path: str) -> Iterator[Violation]:
    message = field.message_type
    if message is not None and not is_map(field) and message.full_name not in _KNOWN:
        if isinstance(value, dict):
            yield from _in(value, message, path + ".")
        else:
            yield Violation(path, f"must be an object, got {_shown(value)}")
        return
    tried = message_factory.GetMessageClass(field.containing_type)()
    try:
        json_format.ParseDict({field.name: [value] if _is_list(field) else value}, tried)
    except _ERRORS:
        yield Violation(path, f"must be {_kind(field)}, got {_shown(value)}")


def _is_list(field: Any) -> bool:
    return is_repeated(field) and not is_map(field)


def _kind(field: Any) -> str:
    if is_map(field):
        return "an object with text by name"
    if field.message_type is not None:
        return _KNOWN[str(field.message_type.full_name)]
    if field.enum_type is not None:
        return f"one of {', '.join(value.name for value in field.enum_type.values if value.number)}"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return "bytes in base64"
    return _PLAIN[int(field.cpp_type)]


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]
