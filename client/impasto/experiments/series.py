"""The report's experiments: series of jobs, each a list of labelled pictures for a contact sheet.

The report repeated Gatys et al. (2016): what each layer preserves of a picture, what the layers up to each block preserve of a
style, and L-BFGS against Adam. It also compared other networks and other weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageChops, ImageStat

from impasto._client import Client
from impasto.experiments.sheets import Tile
from impasto.pictures import Picture
from impasto.requests import EXPERIMENT
from impasto.results import Result, Step

RECONSTRUCTED = ("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_3", "relu4_1")
"""The report's layers 1 to 8: VGG16's first eight convolutions after their non-linearity."""
FIRST_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""The first layer of each block, where the style is compared."""
OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "lbfgs": {"optimizer": "lbfgs"},
    "adam": {"optimizer": "adam", "learning_rate": 0.02},
}
RANDOM = ("vgg16:random-0", "vgg19:random-0", "alexnet:random-0", "squeezenet1_1:random-0")
"""Networks with random filters, which every server has."""


@dataclass(frozen=True)
class Experiment:
    """One picture of a series, with its losses.

    Attributes:
        label: Label of the picture.
        result: The picture and its job.
        losses: Total loss after each evaluation.
    """

    label: str
    result: Result
    losses: tuple[float, ...] = field(repr=False)

    @property
    def seconds_per_step(self) -> float:
        """Mean duration of a step."""
        return self.result.timings.optimize_s / max(1, self.result.job.step)

    def tile(self) -> Tile:
        """Return the picture for a contact sheet."""
        return Tile(self.result.image, f"{self.label}\nloss {self.result.losses.total:.3g}, {self.result.job.step} steps")


Tell = Callable[[str], None]


def run(
    client: Client, label: str, content: Picture | None, style: Any, tell: Tell = lambda _: None, **options: Any
) -> Experiment:
    """Paint one picture of a series and keep its losses.

    Raises:
        ImpastoError: See :mod:`impasto.errors`.
    """
    tell(label)
    losses: list[float] = []

    def note(step: Step) -> None:
        losses.append(step.losses.total)

    result = client.stylize(content, style, on_step=note, **options)
    return Experiment(label, result, tuple(losses))


def reconstructions(
    client: Client,
    image: Picture,
    layers: Sequence[str] = RECONSTRUCTED,
    tell: Tell = lambda _: None,
    **options: Any,
) -> list[Experiment]:
    """Reconstruct a picture from each of several layers (Gatys et al. 2016, figure 1).

    Raises:
        ImpastoError: See :mod:`impasto.errors`.
    """
    common = {**EXPERIMENT, "content_weight": 1.0, "steps": 200, **options}
    return [run(client, layer, image, None, tell, **{**common, "content_layers": {layer: 1.0}}) for layer in layers]


def textures(
    client: Client,
    style: Picture,
    layers: Sequence[str] = FIRST_LAYERS,
    optimizers: Sequence[str] = tuple(OPTIMIZERS),
    tell: Tell = lambda _: None,
    **options: Any,
) -> list[list[Experiment]]:
    """Paint textures of a style from its first 1, 2, ... layers; a row for each optimizer.

    Raises:
        ImpastoError: See :mod:`impasto.errors`.
    """
    common = {**EXPERIMENT, "steps": 200, **options}
    rows = []
    for name in optimizers:
        row = []
        for count in range(1, len(layers) + 1):
            chosen = dict.fromkeys(layers[:count], 1 / count)
            label = f"{name}, to {layers[count - 1]}"
            row.append(run(client, label, None, style, tell, **{**common, **OPTIMIZERS[name], "style_layers": chosen}))
        rows.append(row)
    return rows


def networks_of(client: Client) -> tuple[str, ...]:
    """Return the networks to compare by default: the server's trained networks, its default first, and random ones.

    Raises:
        ImpastoError: See :mod:`impasto.errors`.
    """
    learned = [network.id for network in client.server_info().networks if "random-" not in network.id]
    return (*learned, *RANDOM)


def comparison(
    client: Client,
    content: Picture,
    style: Picture,
    networks: Sequence[str] = (),
    tell: Tell = lambda _: None,
    **options: Any,
) -> list[Experiment]:
    """Paint the same picture with several networks; layers that a network does not have are replaced by its own.

    Args:
        client: Client of the server.
        content: The photograph.
        style: The style.
        networks: As in :class:`~impasto.requests.Options`; :func:`networks_of` if empty.
        tell: Called with the name of each picture before it is painted.
        **options: Options of every picture.

    Raises:
        ImpastoError: See :mod:`impasto.errors`.
    """
    networks = networks or networks_of(client)
    return [run(client, name or "the server's own", content, style, tell, **{**options, "network": name}) for name in networks]


def psnr(picture: Image.Image, wanted: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of two 8-bit pictures of the same size in dB; infinite if they are identical."""
    difference = ImageStat.Stat(ImageChops.difference(picture.convert("RGB"), wanted.convert("RGB")))
    mean_square = sum(difference.sum2) / (3 * difference.count[0])
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)
