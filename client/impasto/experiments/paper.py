"""Repeats the report: every experiment on one content and one style, as a page with pictures, plots and timings."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from impasto._client import Client
from impasto.experiments import series as experiments
from impasto.experiments.plots import STYLE, chart, table
from impasto.experiments.series import Experiment, Tell
from impasto.experiments.sheets import Tile, contact_sheet

PAGE = "index.html"


def write_paper(
    client: Client,
    content: Path,
    style: Path,
    folder: Path,
    size_px: int = 256,
    steps: int = 100,
    networks: Sequence[str] = (),
    tell: Tell = lambda _: None,
) -> Path:
    """Run every experiment of the report, and write pictures and a page into a folder.

    Args:
        client: Client of the server that paints.
        content: The content image.
        style: The style image.
        folder: Output folder; must exist.
        size_px: Longer side of every picture.
        steps: Optimizer steps of every picture.
        networks: Networks to compare, as in :class:`~impasto.requests.Options`; empty for the server's and random ones.
        tell: Called with the name of each picture before it is painted.

    Returns:
        Path of the page.

    Raises:
        ImpastoError: See :mod:`impasto.errors`.
    """
    common = {"size_px": size_px, "steps": steps}
    info = client.server_info()
    where = ", ".join(device.description for device in info.devices)
    filters = next((network.id for network in info.networks), "not loaded")
    parts = [_head(f"impasto {info.version} on {where}, filters {filters}", content, style, size_px, steps)]
    parts.append(_features(client, content, folder, size_px, tell))
    parts.append(_reconstructions(client, content, folder, common, tell))
    parts.append(_textures(client, style, folder, common, tell))
    parts.append(_optimizers(client, content, style, folder, common, tell))
    parts.append(_networks(client, content, style, folder, common, networks, tell))
    page = folder / PAGE
    title = "<!doctype html><html lang='en'><meta charset='utf-8'><title>impasto: the report, repeated</title>"
    page.write_text(f"{title}<style>{STYLE}</style>" + "\n".join(parts) + "</html>\n", encoding="utf-8")
    return page


def _head(server: str, content: Path, style: Path, size_px: int, steps: int) -> str:
    about = f"{server}; {content.name} and {style.name}, {size_px} px, {steps} steps each"
    return f"<h1>The report, repeated</h1><p>{html.escape(about)}.</p>"


def _features(client: Client, content: Path, folder: Path, size_px: int, tell: Tell) -> str:
    rows = []
    for layer in ("conv1_1", "relu2_1", "relu3_1", "relu4_1"):
        tell(f"filters of {layer}")
        found = client.features(content, layer, 5, size_px=size_px)
        rows.append([Tile(item.image, f"{layer}, filter {item.filter}") for item in found.responses])
    contact_sheet(rows, 160).save(folder / "filters.png")
    return _section(
        "Responses of filters to the picture",
        "The five filters of a layer with the strongest response; black is the minimum, white the maximum.",
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
        "What a layer preserves of the content",
        "Reconstructed from white noise by the content loss of one layer (Gatys et al. 2016, figure 1).",
        _picture("reconstructions.png"),
        table(("layer", "PSNR, dB", "loss", "s per step"), rows),
    )


def _textures(client: Client, style: Path, folder: Path, common: Mapping[str, Any], tell: Tell) -> str:
    rows = experiments.textures(client, style, tell=tell, **common)
    contact_sheet([[item.tile() for item in row] for row in rows]).save(folder / "textures.png")
    return _section(
        "What the layers up to a block preserve of a style",
        "Painted from white noise by the style loss of the first layers of 1 to 5 blocks; L-BFGS above Adam.",
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
        "The report's own settings (preset seed), from the same noise. Both minimize the same loss.",
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
        "Other weights and other networks",
        "The same picture in the same style with the default preset, with other weights and other networks. Each has its own"
        " loss: a loss shows the progress of one network, and only the pictures can be compared.",
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
    return table(("", "network", "loss after one step", "loss at the end", "evaluations", "s per step"), rows)


def plot(series: Mapping[str, Sequence[float]]) -> str:
    """Return a chart of losses over evaluations, on a logarithmic scale."""
    points = {label: [(index + 1.0, loss) for index, loss in enumerate(losses)] for label, losses in series.items()}
    return chart(points, "evaluations", log=True)


def _section(title: str, text: str, *parts: str) -> str:
    return f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>" + "".join(parts)


def _picture(name: str) -> str:
    return f"<p><img src='{name}' alt='{name.removesuffix('.png')}'></p>"
