"""Sets message fields from Python values; errors use the caller's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from impasto.display import shown
from impasto.errors import InvalidRequest, Violation

KINDS: Mapping[int, str] = {
    FieldDescriptor.CPPTYPE_INT32: f"a whole number from {-(1 << 31)} to {(1 << 31) - 1}",
    FieldDescriptor.CPPTYPE_UINT32: f"a whole number from 0 to {(1 << 32) - 1}",
    FieldDescriptor.CPPTYPE_INT64: f"a whole number from {-(1 << 63)} to {(1 << 63) - 1}",
    FieldDescriptor.CPPTYPE_UINT64: f"a whole number from 0 to {(1 << 64) - 1}",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
    FieldDescriptor.CPPTYPE_STRING: "text",
}
"""What the value of a field must be, by its type."""


def invalid(field: str, text: str, reason: str = "INVALID_FIELD") -> InvalidRequest:
    """Return the error for one field."""
    return InvalidRequest(f"{field}: {text}", reason=reason, violations=(Violation(field, text),))


def together(wrong: Sequence[InvalidRequest]) -> InvalidRequest:
    """Return one error that names all invalid fields."""
    violations = tuple(violation for error in wrong for violation in error.violations)
    return InvalidRequest("; ".join(map(str, wrong)), reason=wrong[0].reason, violations=violations)


class Problems:
    """Calls functions, and collects the invalid fields that they find: one error then names all of them.

    Attributes:
        found: What was found so far.
    """

    def __init__(self) -> None:
        self.found: list[InvalidRequest] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns; None if it finds a field invalid."""
        try:
            return function(*arguments)
        except InvalidRequest as error:
            self.found.append(error)
            return None

    def check(self) -> None:
        """Reject what was found, if anything.

        Raises:
            InvalidRequest: It names every invalid field.
        """
        if self.found:
            raise together(self.found)


def assign(target: Any, name: str, value: Any, path: str) -> None:
    """Set a field that holds one plain value.

    Args:
        target: The message.
        name: Name of the field.
        value: The caller's value.
        path: The caller's name of the field.

    Raises:
        InvalidRequest: If the value does not fit the field.
    """
    try:
        setattr(target, name, value)
    except (TypeError, ValueError):
        kind = KINDS[target.DESCRIPTOR.fields_by_name[name].cpp_type]
        if not isinstance(value, (int, float)):
            kind = kind.partition(" from ")[0]  # its kind is wrong, not its size
        raise invalid(path, f"must be {kind}, got {described(value)}") from None


def described(value: Any) -> str:
    """Return a value with its kind where it could be taken for another: ``the text '7'``."""
    return f"the text {brief(value)}" if isinstance(value, str) else brief(value)


def brief(value: Any) -> str:
    """Return a value as in Python: of bytes only their number, of long values the beginning."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, tuple):
        return f"({', '.join(map(brief, value[:8]))}{', …' if len(value) > 8 else ',' if len(value) == 1 else ''})"
    return shown(repr(value))


def set_layers(target: Any, value: Any, path: str) -> None:
    """Set weights by layer name.

    Raises:
        InvalidRequest: If the value is not such a mapping.
    """
    if not isinstance(value, Mapping):
        raise invalid(path, f'must be weights by layer, such as {{"relu4_2": 1.0}}, got {brief(value)}')
    target.SetInParent()
    collect = Problems()
    for layer, weight in value.items():
        added = target.layers.add()
        collect(assign, added, "layer", layer, path)
        collect(assign, added, "weight", weight, f"{path}[{layer}]")
    collect.check()


def set_labels(target: Any, value: Any, path: str) -> None:
    """Set text by name.

    Raises:
        InvalidRequest: If the value is not such a mapping.
    """
    valid = isinstance(value, Mapping) and all(isinstance(text, str) for item in value.items() for text in item)
    if not valid:
        raise invalid(path, f'must be text by name, such as {{"album": "norway"}}, got {brief(value)}')
    try:
        target.update(value)
    except UnicodeEncodeError as error:
        raise invalid(path, f"must be UTF-8, got {brief(error.object)}") from None


def set_time(target: Any, value: Any, path: str) -> None:
    """Set a moment; one without a time zone is local time.

    Raises:
        InvalidRequest: If the value is not a datetime that a timestamp can hold.
    """
    try:
        target.FromDatetime(value.astimezone(UTC))
    except (AttributeError, TypeError, ValueError, OverflowError, OSError):
        raise invalid(path, f"must be a datetime, got {brief(value)}") from None


def set_schedule(target: Any, value: Any, path: str) -> None:
    """Add pairs of size and steps.

    Raises:
        InvalidRequest: If the value is not a list of such pairs.
    """
    example = "must be pairs of size and steps, such as [(256, 100), (512, 50)]"
    if not isinstance(value, list | tuple) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        raise invalid(path, f"{example}, got {brief(value)}")
    collect = Problems()
    for index, (size, steps) in enumerate(value):
        added = target.add()
        collect(assign, added, "size_px", size, f"{path}[{index}].size_px")
        collect(assign, added, "steps", steps, f"{path}[{index}].steps")
    collect.check()


def set_span(target: Any, seconds: Any, path: str) -> None:
    """Set a duration.

    Raises:
        InvalidRequest: If the value is not a number of seconds.
    """
    try:
        target.FromNanoseconds(round(seconds * 1e9))
    except (TypeError, ValueError, OverflowError):
        raise invalid(path, f"must be seconds, got {brief(seconds)}") from None
