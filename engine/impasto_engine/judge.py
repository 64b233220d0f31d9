"""Content and style distances of a picture, measured by a network that it was not optimized against.

The benchmarks and tests use ``edges-wheel`` as the judge: VGG16 fine-tuned for edge detection. Content distance: squared
distance of features whose channel vectors are normalized to unit length at each position, averaged over relu3_1, relu4_1 and
relu5_1. Style distance: distance of the Gram matrices relative to the norm of the style's, averaged over the first layers, with
the style at the canvas's scale. An edge network counts lost edges as lost content, so compare styles at equal content
distance, and look at the pictures.
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
"""Filters that no default uses for optimization."""


class Judge:
    """Scores pictures.

    Args:
        network: The network that measures the distances.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    def distances(self, picture: Tensor, content: Tensor, style: Tensor) -> tuple[float, float]:
        """Return the content distance (0 to 4) and the style distance (0 or more); 0 means identical.

        Args:
            picture: 8-bit sRGB, shape (height, width, channels).
            content: The content, of the same size.
            style: The style, at the scale used for painting.
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
