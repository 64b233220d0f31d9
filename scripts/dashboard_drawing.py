"""Draw panels of time series as a page of SVG, in the grid and the colours of a Grafana dashboard."""

from __future__ import annotations

import html
import itertools
import math
from dataclasses import dataclass
from datetime import UTC, datetime

CELL_W, CELL_H = 60, 30
"""Size of a cell of the dashboard's grid, in pixels; the page has 24 across."""
LEFT, RIGHT, TOP, LINE = 62, 12, 30, 16
"""Margins of a chart, and the height of a line of its legend."""
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#96d98d", "#ca95e5")
SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "Bps": ((1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s")),
    "s": ((60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")),
}


@dataclass(frozen=True)
class Series:
    """A name, and pairs of Unix time and value."""

    name: str
    values: list[tuple[float, float]]

    @property
    def known(self) -> list[tuple[float, float]]:
        """The values that are numbers."""
        return [(at, value) for at, value in self.values if math.isfinite(value)]


@dataclass(frozen=True)
class Panel:
    """A panel, or the title of a row, with its place in the grid."""

    title: str
    unit: str
    left: int
    top: int
    width: int
    height: int
    series: list[Series]
    logarithmic: bool = False

    @property
    def is_row(self) -> bool:
        """Whether it is the title of a row."""
        return self.height == 1

    @property
    def is_flat(self) -> bool:
        """Whether all values are zero."""
        return not any(value for series in self.series for _, value in series.known)


def amount(value: float, unit: str) -> str:
    """Return a value with its unit, in three digits."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    for scale, name in SCALES.get(unit, ()):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}"
    suffix = {"reqps": " req/s", "s": " s", "bytes": " B", "Bps": " B/s", "cpm": " /min"}.get(unit, "")
    return f"{value:.3g}{suffix}"


def ceiling(value: float) -> float:
    """Return the next round number at or above a value."""
    if value <= 0:
        return 1.0
    base: float = 10.0 ** math.floor(math.log10(value))
    return next(step * base for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * base >= value * (1 - 1e-9))


def draw(title: str, panels: list[Panel]) -> str:
    """Return the page."""
    known = [at for panel in panels for series in panel.series for at, _ in series.values]
    span = (min(known), max(known)) if known else (0.0, 1.0)
    body = "".join(_row(panel) if panel.is_row else _panel(panel, span) for panel in panels)
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<style>body{background:#111217;margin:20px;font:12px sans-serif;color:#ccccdc}"
        "div{position:absolute}h1{font-size:18px;margin:0 0 0 4px}"
        ".panel{background:#181b1f;border:1px solid #2c3235;border-radius:2px}"
        "text{fill:#9fa7b3;font:11px sans-serif}.title{fill:#d8d9da;font-weight:bold;font-size:13px}</style>"
        f"<h1>{html.escape(title)}</h1>{body}"
    )


def _place(panel: Panel) -> str:
    left, top = 20 + panel.left * CELL_W, 60 + panel.top * CELL_H
    return f"left:{left}px;top:{top}px;width:{panel.width * CELL_W - 8}px;height:{panel.height * CELL_H - 8}px"


def _row(panel: Panel) -> str:
    return f'<div style="{_place(panel)};font-size:15px;font-weight:bold">{html.escape(panel.title)}</div>'


@dataclass(frozen=True)
class Axes:
    """Where times and values stand in a panel."""

    span: tuple[float, float]
    box: tuple[float, float, float, float]
    low: float
    high: float
    logarithmic: bool

    def x(self, at: float) -> float:
        """Return the place of a time."""
        left, right, _, _ = self.box
        return left + (right - left) * (at - self.span[0]) / max(1e-9, self.span[1] - self.span[0])

    def y(self, value: float) -> float:
        """Return the place of a value."""
        _, _, top, bottom = self.box
        share = (value - self.low) / (self.high - self.low)
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return bottom - (bottom - top) * min(1.0, share)

    def marks(self) -> list[float]:
        """Return the values that are written beside the axis."""
        if self.logarithmic:
            return [10.0**power for power in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]
        return [self.high * step / 4 for step in range(5)]


def _axes(panel: Panel, span: tuple[float, float], box: tuple[float, float, float, float]) -> Axes:
    values = [value for series in panel.series for _, value in series.known]
    if panel.logarithmic and any(value > 0 for value in values):
        low = 10.0 ** math.floor(math.log10(min(value for value in values if value > 0)))
        return Axes(span, box, low, max(10 * low, 10.0 ** math.ceil(math.log10(max(values)))), logarithmic=True)
    high = 1.0 if panel.unit == "percentunit" else ceiling(max(values, default=0.0))
    return Axes(span, box, 0.0, high, logarithmic=False)


def _panel(panel: Panel, span: tuple[float, float]) -> str:
    width, height = panel.width * CELL_W - 8, panel.height * CELL_H - 8
    shown = sorted(panel.series, key=lambda series: -max((value for _, value in series.known), default=0.0))[:6]
    names = [f"{item.name}: {amount(item.known[-1][1], panel.unit)}" for item in shown if item.known]
    columns = max(1, (width - LEFT) // (8 * max((len(name) for name in names), default=1) + 16))
    lines = -(-len(names) // columns)
    bottom = height - 28 - LINE * lines
    axes = _axes(panel, span, (LEFT, width - RIGHT, TOP, bottom))
    parts = [f"<text class=title x=10 y=19>{html.escape(panel.title)}</text>"]
    for mark in axes.marks():
        y = axes.y(mark)
        parts.append(f'<line x1={LEFT} x2={width - RIGHT} y1={y:.1f} y2={y:.1f} stroke="#2c3235"/>')
        parts.append(f"<text x={LEFT - 6} y={y + 4:.1f} text-anchor=end>{amount(mark, panel.unit)}</text>")
    for step, anchor in enumerate(("start", "middle", "end")):
        at = span[0] + (span[1] - span[0]) * step / 2
        label = datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")
        parts.append(f"<text x={axes.x(at):.1f} y={bottom + 15} text-anchor={anchor}>{label}</text>")
    for number, name in enumerate(names):
        colour = COLOURS[number]
        parts.append(_line(shown[number], colour, axes))
        x, y = LEFT + number % columns * (width - LEFT) // columns, bottom + 33 + LINE * (number // columns)
        parts.append(
            f'<rect x={x} y={y - 6} width=10 height=3 fill="{colour}"/><text x={x + 14} y={y}>{html.escape(name)}</text>'
        )
    if not names:
        parts.append(f"<text x={width / 2} y={(TOP + bottom) / 2} text-anchor=middle>No data</text>")
    return f'<div class=panel style="{_place(panel)}"><svg width={width} height={height}>{"".join(parts)}</svg></div>'


def _line(series: Series, colour: str, axes: Axes) -> str:
    """Return the line, broken where values are missing."""
    pieces: list[str] = []
    before = 0.0
    usual = min((b - a for (a, _), (b, _) in itertools.pairwise(series.values)), default=0.0)
    for at, value in series.known:
        pieces.append(f"{'L' if pieces and at - before < 1.5 * usual + 1e-6 else 'M'}{axes.x(at):.1f} {axes.y(value):.1f}")
        before = at
    return f'<path d="{"".join(pieces)}" fill=none stroke="{colour}" stroke-width=1.5 />'
