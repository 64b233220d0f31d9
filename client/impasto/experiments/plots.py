"""Small SVG charts for self-contained pages, readable in light and dark mode."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence

COLOURS = ("#2f86c9", "#d1495b", "#3a8f5c", "#c98a1b", "#7a4fa3", "#5c8a99")
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --rule: #ccc; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181818; --rule: #444; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
img { max-width: 100%; height: auto; } table { border-collapse: collapse; margin: 1rem 0; }
.wide { overflow-x: auto; }
td, th { border-bottom: 1px solid var(--rule); padding: .25rem .75rem; text-align: right; }
td, th { white-space: nowrap; } td small { opacity: .7; }
td:first-child, th:first-child { text-align: left; }
.facts td { text-align: left; white-space: normal; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); }
"""
"""Style sheet of a page with charts."""
Points = Sequence[tuple[float, float]]
_LEFT, _BOTTOM, _TOP, _RIGHT = 70, 40, 34, 30
_GAP = 4.0
"""A line is broken where the distance of two points is more than this many times the median distance."""


def chart(
    series: Mapping[str, Points],
    x_label: str,
    *,
    log: bool = False,
    dots: bool = False,
    width: int = 720,
    height: int = 320,
    ticks: Mapping[float, str] | None = None,
    crosses: Mapping[str, Points] | None = None,
    span: tuple[float, float] | None = None,
) -> str:
    """Return an SVG chart of one or more series, or an empty text if they have no points.

    Args:
        series: Points by legend.
        x_label: Label of the x axis.
        log: Whether the y axis is logarithmic; values that are not positive are omitted then.
        dots: Dots instead of lines.
        width: Width of the chart.
        height: Height of the chart.
        ticks: Labels by position on the x axis; round numbers by default.
        crosses: Points by legend that are marked by crosses.
        span: Range of the x axis; from the first point to the last by default.
    """
    kept = {name: [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)] for name, points in series.items()}
    marked = dict(crosses or {})
    everything = [point for points in (*kept.values(), *marked.values()) for point in points]
    if not everything:
        return ""
    heights = [math.log10(y) if log else y for points in kept.values() for _, y in points] or [0.0]
    first, last = span or (min(x for x, _ in everything), max(x for x, _ in everything))
    low, high = (min(heights), max(heights)) if log else (min(0.0, *heights), max(heights))
    last, high = max(last, first + 1e-9), max(high, low + 1e-9)

    levels = [low + (high - low) * step / 4 for step in range(5)]
    if not log:
        step = _step(low, high)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        levels = _round(low, high)

    def across(x: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * (x - first) / (last - first)

    def down(y: float) -> float:
        return height - _BOTTOM - (height - _BOTTOM - _TOP) * ((math.log10(y) if log else y) - low) / (high - low)

    parts = [f"<svg viewBox='0 0 {width} {height}' width='{width}' role='img' aria-label='{html.escape(x_label, quote=True)}'>"]
    for level in levels:
        y = down(10**level if log else level)
        parts.append(f"<line x1='{_LEFT}' y1='{y:.1f}' x2='{width - _RIGHT}' y2='{y:.1f}' stroke='gray' stroke-opacity='.3'/>")
        text = f"{10**level if log else level:.3g}"
        parts.append(f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end' font-size='12'>{text}</text>")
    for x, word in (ticks or dict.fromkeys(_round(first, last), "")).items():
        place = f"x='{across(x):.1f}' y='{height - _BOTTOM + 18}' text-anchor='middle' font-size='12'"
        parts.append(f"<text {place}>{html.escape(word) or f'{x:.4g}'}</text>")
    for number, points in enumerate(kept.values()):
        colour = COLOURS[number % len(COLOURS)]
        if dots:
            parts += [f"<circle cx='{across(x):.1f}' cy='{down(y):.1f}' r='2.5' fill='{colour}'/>" for x, y in points]
        else:
            for piece in _pieces(points):
                line = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in piece)
                parts.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='2'/>")
    for number, spots in enumerate(marked.values(), len(kept)):
        for x, y in spots:
            a, b, colour = across(x), down(y), COLOURS[number % len(COLOURS)]
            path = f"M{a - 4:.1f},{b - 4:.1f}l8,8m0,-8l-8,8"
            parts.append(f"<path d='{path}' stroke='{colour}' stroke-width='2' fill='none'/>")
    parts.append(_legend([*kept, *marked], width))
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(f"<text x='{middle}' y='{height - 4}' text-anchor='middle' font-size='12'>{html.escape(x_label)}</text></svg>")
    return "".join(parts)


def _legend(names: Sequence[str], width: int) -> str:
    """Return the legend: the series' names in their colours, above the plot."""
    spans = []
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        spans.append(f"<tspan style='fill:{colour}' dx='{18 if number else 0}'>{html.escape(name)}</tspan>")
    return f"<text x='{width - _RIGHT}' y='18' text-anchor='end' font-size='13'>{''.join(spans)}</text>"


def _round(first: float, last: float) -> list[float]:
    """Return some round numbers in a range."""
    step = _step(first, last)
    return [index * step for index in range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)]


def _step(first: float, last: float) -> float:
    """Return a round step that fits a few times into a range."""
    rough = (last - first) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)


def _pieces(points: Points) -> list[Points]:
    """Return a line in pieces, broken where a gap is much longer than usual."""
    gaps = sorted(after[0] - before[0] for before, after in itertools.pairwise(points))
    if not gaps or gaps[len(gaps) // 2] <= 0:
        return [points]
    usual, pieces, begin = gaps[len(gaps) // 2], [], 0
    for index in range(1, len(points)):
        if points[index][0] - points[index - 1][0] > _GAP * usual:
            pieces.append(points[begin:index])
            begin = index
    return [*pieces, points[begin:]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts; text after a line break in a cell is small print."""

    def cell(text: str) -> str:
        main, _, note = html.escape(text).partition("\n")
        return f"<td>{main}<br><small>{note}</small></td>" if note else f"<td>{main}</td>"

    cells = "".join(f"<th>{html.escape(word)}</th>" for word in head)
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{cells}</tr>{body}</table></div>"
