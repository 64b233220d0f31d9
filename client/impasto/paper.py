"""The report, repeated: every experiment on one content and one style, as a page with pictures, plots and timings."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from impasto import experiments
from impasto.client import Client
from impasto.experiments import Experiment, Tell
from impasto.sheets import Tile, contact_sheet

PAGE = "index.html"
_LINE_COLOURS = ("#1b6ca8", "#d1495b", "#3a8f5c", "#c98a1b", "#7a4fa3")
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --rule: #ccc; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181818; --rule: #444; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
img { max-width: 100%; height: auto; } table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid var(--rule); padding: .25rem .75rem; text-align: right; }
td:first-child, th:first-child { text-align: left; } svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); }
"""


def write_paper(
    client: Client,
    content: Path,
    style: Path,
    folder: Path,
    size_px: int = 256,
    steps: int = 100,
    networks: Sequence[str] = experiments.NETWORKS,
    tell: Tell = lambda _: None,
) -> Path:
    """Run every experiment of the report, and write pictures and a page into a folder.

    Args:
        client: Connected to the server that paints.
        content: The content image.
        style: The style image.
        folder: Must be there.
        size_px: Longer side of every picture.
        steps: Optimizer steps of every picture.
        networks: What to compare, as in :class:`~impasto.requests.Options`; empty for the server's own.
        tell: Told the name of each picture when it is begun.

    Returns:
        The page.

    Raises:
        ImpastoError: See :mod:`impasto.errors`.
    """
    common = {"size_px": size_px, "steps": steps}
    info = client.server_info()
    parts = [_head(info.version, ", ".join(device.description for device in info.devices), content, style, size_px, steps)]
    parts.append(_features(client, content, folder, size_px, tell))
    parts.append(_reconstructions(client, content, folder, common, tell))
    parts.append(_textures(client, style, folder, common, tell))
    parts.append(_optimizers(client, content, style, folder, common, tell))
    parts.append(_networks(client, content, style, folder, common, networks, tell))
    page = folder / PAGE
    title = "<!doctype html><html lang='en'><meta charset='utf-8'><title>impasto: the report, repeated</title>"
    page.write_text(f"{title}<style>{_STYLE}</style>" + "\n".join(parts) + "</html>\n", encoding="utf-8")
    return page


def _head(version: str, devices: str, content: Path, style: Path, size_px: int, steps: int) -> str:
    about = f"impasto {version} on {devices}; {content.name} and {style.name}, {size_px} px, {steps} steps each"
    return f"<h1>The report, repeated</h1><p>{html.escape(about)}.</p>"


def _features(client: Client, content: Path, folder: Path, size_px: int, tell: Tell) -> str:
    rows = []
    for layer in ("conv1_1", "relu2_1", "relu3_1", "relu4_1"):
        tell(f"filters of {layer}")
        found = client.features(content, layer, 5, size_px=size_px)
        rows.append([Tile(item.image, f"{layer}, filter {item.filter}") for item in found.responses])
    contact_sheet(rows, 160).save(folder / "filters.png")
    return _section(
        "How filters see the picture",
        "Responses of the five filters of a layer that answer most; black is the least, white the most.",
        _picture("filters.png"),
    )


def _reconstructions(client: Client, content: Path, folder: Path, common: Mapping[str, Any], tell: Tell) -> str:
    found = experiments.reconstructions(client, content, tell=tell, **common)
    with Image.open(content) as opened:
        original = opened.convert("RGB").resize(found[0].result.image.size, Image.Resampling.LANCZOS)
    figures = [experiments.psnr(item.result.image, original) for item in found]
    tiles = [Tile(item.result.image, f"{item.label}\n{figure:.1f} dB") for item, figure in zip(found, figures, strict=True)]
    contact_sheet([tiles[:4], tiles[4:]]).save(folder / "reconstructions.png")
    rows = [
        (item.label, f"{figure:.1f}", f"{item.result.losses.total:.3g}", f"{item.seconds_per_step:.2f}")
        for item, figure in zip(found, figures, strict=True)
    ]
    return _section(
        "What a layer keeps of the content",
        "From white noise, compared with the photograph at one layer only (Gatys et al. 2016, figure 1).",
        _picture("reconstructions.png"),
        _table(("layer", "PSNR, dB", "loss", "s per step"), rows),
    )


def _textures(client: Client, style: Path, folder: Path, common: Mapping[str, Any], tell: Tell) -> str:
    rows = experiments.textures(client, style, tell=tell, **common)
    contact_sheet([[item.tile() for item in row] for row in rows]).save(folder / "textures.png")
    return _section(
        "What the layers up to a block hold of a style",
        "From white noise, compared with the style's Gram matrices at the first layers of 1 to 5 blocks; L-BFGS above Adam.",
        _picture("textures.png"),
        plot({f"{row[-1].label}": row[-1].losses for row in rows}),
    )


def _optimizers(client: Client, content: Path, style: Path, folder: Path, common: Mapping[str, Any], tell: Tell) -> str:
    seed = {**common, "preset": "seed"}
    runs = [
        experiments.run(client, name, content, style, tell, **{**seed, **options})
        for name, options in experiments.OPTIMIZERS.items()
    ]
    contact_sheet([[item.tile() for item in runs]], 384).save(folder / "optimizers.png")
    return _section(
        "L-BFGS against Adam",
        "The report's own settings (preset seed), from the same noise. Both are asked for the same loss.",
        _picture("optimizers.png"),
        plot({item.label: item.losses for item in runs}),
        _costs(runs),
    )


def _networks(
    client: Client,
    content: Path,
    style: Path,
    folder: Path,
    common: Mapping[str, Any],
    networks: Sequence[str],
    tell: Tell,
) -> str:
    found = experiments.comparison(client, content, style, networks, tell, **common)
    contact_sheet([[item.tile() for item in found]]).save(folder / "networks.png")
    return _section(
        "Would other filters, or other networks, do?",
        "The same picture in the same style by the default preset, with other filters and other networks. Each has a loss of"
        " its own: the losses say how far each came, and only the pictures can be compared.",
        _picture("networks.png"),
        _costs(found),
    )


def _costs(found: Sequence[Experiment]) -> str:
    rows = [
        (
            item.label,
            item.result.job.network.id if item.result.job.network else "",
            f"{item.losses[0]:.4g}",
            f"{item.result.losses.total:.4g}",
            str(item.result.evaluations),
            f"{item.seconds_per_step:.2f}",
        )
        for item in found
    ]
    return _table(("", "network", "loss after one step", "loss at the end", "evaluations", "s per step"), rows)


def plot(series: Mapping[str, Sequence[float]], width: int = 720, height: int = 320) -> str:
    """Return losses over evaluations as an SVG picture, on a logarithmic scale."""
    values = [math.log10(value) for losses in series.values() for value in losses if value > 0]
    if not values:
        return ""
    low, high = min(values), max(values)
    high = max(high, low + 1e-6)
    count = max(len(losses) for losses in series.values())
    left, bottom, top, right = 70, height - 40, 15, width - 15

    def across(index: int) -> float:
        return left + (right - left) * index / max(1, count - 1)

    def down(value: float) -> float:
        return bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    parts = [f"<svg viewBox='0 0 {width} {height}' width='{width}' role='img' aria-label='loss over evaluations'>"]
    for step in range(5):
        level = low + (high - low) * step / 4
        y = bottom - (bottom - top) * step / 4
        parts.append(f"<line x1='{left}' y1='{y:.1f}' x2='{right}' y2='{y:.1f}' stroke='gray' stroke-opacity='.3'/>")
        parts.append(f"<text x='{left - 8}' y='{y + 4:.1f}' text-anchor='end' font-size='12'>{10**level:.3g}</text>")
    for index in sorted({0, count // 4, count // 2, 3 * count // 4, count - 1}):
        place = across(index)
        parts.append(f"<text x='{place:.1f}' y='{bottom + 18}' text-anchor='middle' font-size='12'>{index + 1}</text>")
    for number, (label, losses) in enumerate(series.items()):
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        points = " ".join(f"{across(index):.1f},{down(value):.1f}" for index, value in enumerate(losses) if value > 0)
        parts.append(f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/>")
        y = top + 14 + 16 * number
        parts.append(
            f"<text x='{right - 4}' y='{y}' text-anchor='end' font-size='13' style='fill:{colour}'>{html.escape(label)}</text>"
        )
    parts.append(
        f"<text x='{(left + right) / 2}' y='{height - 4}' text-anchor='middle' font-size='12'>evaluations</text></svg>"
    )
    return "".join(parts)


def _section(title: str, text: str, *parts: str) -> str:
    return f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>" + "".join(parts)


def _picture(name: str) -> str:
    return f"<p><img src='{name}' alt='{name.removesuffix('.png')}'></p>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"
