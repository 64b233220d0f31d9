"""Kinds of arguments that several commands share: labels and times."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from impasto import requests
from impasto.errors import InvalidRequest

_AGO = re.compile(r"(\d{1,9})\s*(s|min|h|d)")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``2h`` for two hours ago, or a date with an optional time: ``2026-11-30``, ``2026-11-30T14:05``."""

    name = "TIME"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the moment; a date without a time zone is local time."""
        if isinstance(value, datetime):
            return value
        try:
            if ago := _AGO.fullmatch(value.strip()):
                return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return datetime.fromisoformat(value.strip()).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time, such as 30min, 2h, 3d or 2026-11-30T14:05", param, ctx)


def labels_of(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str] | None:
    """Return the labels of repeated ``NAME=VALUE`` options; None if there are none."""
    try:
        return requests.labels_of(values, "") or None
    except InvalidRequest as error:
        raise click.BadParameter(error.violations[0].description, ctx, param) from None


def label_option(text: str) -> Callable[[Any], Any]:
    """Return the option ``--label``.

    Args:
        text: Its help.
    """
    return click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", callback=labels_of, help=text)
