"""Small SVG charts for pages that need nothing from elsewhere: readable in light and dark, by the page's own variables."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

COLOURS = ("#2f86c9", "#d1495b", "#3a8f5c", "#c98a1b", "#7a4fa3", "#5c8a99")
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --rule: #ccc; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181818; --rule: #444; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
img { max-width: 100%; height: auto; } table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid var(--rule); padding: .25rem .75rem; text-align: right; }
td:first-child, th:first-child { text-align: left; } svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); }
"""
"""Of a page that holds the charts."""
Points = Sequence[tuple[float, float]]
_LEFT, _BOTTOM, _TOP, _RIGHT = 70, 40, 15, 30


def chart(
    series: Mapping[str, Points],
    x_label: str,
    *,
    log: bool = False,
    dots: bool = False,
    width: int = 720,
    height: int = 320,
    ticks: Mapping[float, str] | None = None,
) -> str:
    """Return an SVG picture of one or several series, or nothing if there is no point in them.

    Args:
        series: Points by legend.
        x_label: What stands below.
        log: Whether heights are shown by their logarithm; what is not above zero is left out then.
        dots: Dots instead of lines.
        width: Of the picture.
        height: Of the picture.
        ticks: Words for places along the bottom; five round ones by default.
    """
    kept = {name: [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)] for name, points in series.items()}
    places = [x for points in kept.values() for x, _ in points]
    heights = [math.log10(y) if log else y for points in kept.values() for _, y in points]
    if not places:
        return ""
    first, last = min(places), max(places)
    low, high = (min(heights), max(heights)) if log else (min(0.0, *heights), max(heights))
    last, high = max(last, first + 1e-9), max(high, low + 1e-9)

    def across(x: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * (x - first) / (last - first)

    def down(y: float) -> float:
        return height - _BOTTOM - (height - _BOTTOM - _TOP) * ((math.log10(y) if log else y) - low) / (high - low)

    parts = [f"<svg viewBox='0 0 {width} {height}' width='{width}' role='img' aria-label='{html.escape(x_label, quote=True)}'>"]
    for step in range(5):
        level = low + (high - low) * step / 4
        y = down(10**level if log else level)
        parts.append(f"<line x1='{_LEFT}' y1='{y:.1f}' x2='{width - _RIGHT}' y2='{y:.1f}' stroke='gray' stroke-opacity='.3'/>")
        text = f"{10**level if log else level:.3g}"
        parts.append(f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end' font-size='12'>{text}</text>")
    for x, word in (ticks or {first + (last - first) * part / 4: "" for part in range(5)}).items():
        place = f"x='{across(x):.1f}' y='{height - _BOTTOM + 18}' text-anchor='middle' font-size='12'"
        parts.append(f"<text {place}>{html.escape(word) or f'{x:.4g}'}</text>")
    for number, (name, points) in enumerate(kept.items()):
        colour = COLOURS[number % len(COLOURS)]
        if dots:
            parts += [f"<circle cx='{across(x):.1f}' cy='{down(y):.1f}' r='2.5' fill='{colour}'/>" for x, y in points]
        else:
            line = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
            parts.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='2'/>")
        place = f"x='{width - _RIGHT - 4}' y='{_TOP + 14 + 16 * number}' text-anchor='end' font-size='13'"
        parts.append(f"<text {place} style='fill:{colour}'>{html.escape(name)}</text>")
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(f"<text x='{middle}' y='{height - 4}' text-anchor='middle' font-size='12'>{html.escape(x_label)}</text></svg>")
    return "".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts."""
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"
