"""JSON schemas of the contract's messages in their JSON mapping, with the contract's comments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from impasto.contract import descriptions, messages

_SCALARS: Mapping[int, dict[str, Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "format": "int64", "pattern": r"^-?\d+$"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}
_KNOWN: Mapping[str, dict[str, Any]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$", "examples": ["90s"]},
}


def schemas(*roots: Any) -> dict[str, dict[str, Any]]:
    """Return the schema of every message that the given ones are made of, and of every enumeration, by name."""
    found: dict[str, dict[str, Any]] = {}
    waiting: list[Any] = list(roots)
    while waiting:
        message = waiting.pop()
        if message.name in found or message.full_name in _KNOWN:
            continue
        found[message.name] = _schema(message)
        for field in message.fields:
            if is_map(field):
                continue
            if field.message_type is not None:
                waiting.append(field.message_type)
            elif field.enum_type is not None:
                found[field.enum_type.name] = _enum(field.enum_type)
    return dict(sorted(found.items()))


def ref(name: str) -> dict[str, str]:
    """Return a reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def _schema(message: Any) -> dict[str, Any]:
    properties = {}
    for field in message.fields:
        text = comment(message.name, field.name)
        kind = _type(field)
        if is_map(field):
            kind = {"type": "object", "additionalProperties": _type(field.message_type.fields_by_name["value"])}
        elif is_repeated(field):
            kind = {"type": "array", "items": kind}
        properties[field.json_name] = (
            {"allOf": [kind], "description": text} if "$ref" in kind else {**kind, "description": text}
        )
    return {"type": "object", "description": descriptions().get(message.name, ""), "properties": properties}


def is_repeated(field: Any) -> bool:
    """Whether a field is repeated; protobuf before 6.31 says so by its label, which newer ones deprecate."""
    found = getattr(field, "is_repeated", None)
    return field.label == field.LABEL_REPEATED if found is None else bool(found)


def is_map(field: Any) -> bool:
    """Whether a field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _type(field: Any) -> dict[str, Any]:
    if field.message_type is not None:
        known = _KNOWN.get(field.message_type.full_name)
        return dict(known) if known else dict(ref(field.message_type.name))
    if field.enum_type is not None:
        return dict(ref(field.enum_type.name))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    return dict(_SCALARS[field.cpp_type])


def _enum(enum: Any) -> dict[str, Any]:
    said = {name: text for _, name, text in messages("enum").get(enum.name, [])}
    lines = [descriptions().get(enum.name, ""), *(f"- `{value.name}`: {said.get(value.name, '')}" for value in enum.values)]
    return {"type": "string", "enum": [value.name for value in enum.values], "description": "\n".join(lines)}


@cache
def _comments() -> Mapping[tuple[str, str], str]:
    return {(message, name): text for message, fields in messages("message").items() for _, name, text in fields}


def comment(message: str, name: str) -> str:
    """Return the contract's comment on a field; empty if it has none."""
    return _comments().get((message, name), "")
