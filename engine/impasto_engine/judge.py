"""Distances of a picture from its content and its style, as a network sees them that was not optimized against.

The judge of the benchmarks and tests is ``edges-wheel``: VGG16 trained further to detect edges. Content: the squared distance
of features whose channels have unit length at each position, mean over relu3_1, relu4_1 and relu5_1. Style: the distance of
Gram matrices over the norm of the style's, mean over the first layers; the style is seen at the canvas's scale. An edge
network counts lost edges as lost content: compare styles at equal content, and look.
"""

from __future__ import annotations

import torch
from torch import Tensor

from impasto_engine.losses import gram
from impasto_engine.networks import Network
from impasto_engine.objective import to_canvas
from impasto_engine.parameters import FIRST_LAYERS

CONTENT_LAYERS = ("relu3_1", "relu4_1", "relu5_1")
JUDGE = "edges-wheel"
"""Filters that no default is optimized against."""


class Judge:
    """Scores pictures.

    Args:
        network: Which judges.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    def distances(self, picture: Tensor, content: Tensor, style: Tensor) -> tuple[float, float]:
        """Return the distance from the content, 0 to 4, and from the style, 0 for the same.

        Args:
            picture: 8-bit sRGB, height, width, channels.
            content: Of the same size.
            style: At the scale that the picture was painted at.
        """
        made, wanted, painted = (
            self._network.features(to_canvas(item, self._network.device), FIRST_LAYERS) for item in (picture, content, style)
        )
        contents = [(_unit(made[layer]) - _unit(wanted[layer])).square().sum(dim=1).mean() for layer in CONTENT_LAYERS]
        styles = []
        for layer in FIRST_LAYERS:
            own, other = gram(made[layer]), gram(painted[layer])
            styles.append((own - other).norm() / other.norm())
        return float(torch.stack(contents).mean()), float(torch.stack(styles).mean())


def _unit(features: Tensor) -> Tensor:
    length: Tensor = features.norm(dim=1, keepdim=True)
    return features / length.clamp_min(1e-8)
