"""Gates: limits on the figures of a run. Their names are checked before anything is sent."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from impasto.load.records import MEASURES, SPLIT

SHARES = ("errors", "censored", "incorrect")
"""Shares of all requests, in percent."""
_FIGURE = re.compile(r"(?P<what>mean|max|p(?P<percent>\d+(\.\d+)?))\((?P<measure>[\w@]+)(\[(?P<entry>[^\]]+)\])?\)")
_GATE = re.compile(r"(?P<figure>[^<>=]+?)\s*(?P<sign><=?|>=?)\s*(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>ms|s|min|%|/s|/min)?")
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "%": 0.01, "/s": 1.0, "/min": 1 / 60}


@dataclass(frozen=True)
class Figure:
    """A figure of a run by its name.

    Attributes:
        what: ``mean``, ``max``, ``percentile``, the name of a share, or ``throughput``.
        percent: Percent of a percentile.
        measure: Name of the time; ``done[small]`` for one class of the workload.
        entry: That class, or empty.
    """

    what: str
    percent: float = 0.0
    measure: str = ""
    entry: str = ""

    @staticmethod
    def parse(name: str) -> Figure:
        """Return the figure of a name such as ``p95(done)``, ``mean(first_step@sent)``, ``p50(done[small])`` or ``errors``.

        Raises:
            ValueError: If the figure is unknown.
        """
        if name in (*SHARES, "throughput"):
            return Figure(name)
        found = _FIGURE.fullmatch(name)
        if found is None or found["measure"] not in MEASURES or (found["entry"] and found["measure"] in SPLIT):
            names = ", ".join((*SHARES, "throughput", "p95(TIME)", "mean(TIME)", "max(TIME)"))
            raise ValueError(f"unknown figure {name!r}; valid figures: {names}, where TIME is one of {', '.join(MEASURES)}")
        measure = found["measure"] + (f"[{found['entry']}]" if found["entry"] else "")
        if not found["percent"]:
            return Figure(found["what"], 0.0, measure, found["entry"] or "")
        percent = float(found["percent"])
        if not 0 < percent <= 100:
            raise ValueError(f"{name!r}: percentiles must be above 0 and at most 100")
        return Figure("percentile", percent, measure, found["entry"] or "")


@dataclass(frozen=True)
class Slo:
    """A gate.

    Attributes:
        text: As it was given.
        metric: Name of the figure.
        sign: ``<``, ``<=``, ``>`` or ``>=``.
        limit: In seconds, as a share of 1, or per second.
    """

    text: str
    metric: str
    sign: str
    limit: float

    @staticmethod
    def parse(text: str) -> Slo:
        """Parse a gate such as ``p95(done)<30s`` or ``errors<0.1%``.

        Raises:
            ValueError: If it cannot be parsed, the figure is unknown, or the unit does not fit the figure.
        """
        found = _GATE.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is not FIGURE<LIMIT, such as 'p95(done)<30s' or 'errors<0.1%'")
        figure = Figure.parse(found["figure"])
        units = {"throughput": ("/s", "/min"), **dict.fromkeys(SHARES, ("%",))}.get(figure.what, ("ms", "s", "min"))
        if found["unit"] not in units:
            raise ValueError(f"{text!r}: {found['figure']} is measured in {', '.join(units)}")
        return Slo(text.strip(), found["figure"], found["sign"], float(found["number"]) * _UNITS[found["unit"]])

    def holds(self, value: float | None) -> bool:
        """Whether a figure satisfies the gate; a figure that is unknown because too much failed or did not end does not."""
        return value is not None and math.isfinite(value) and _SIGNS[self.sign](value, self.limit)
