r"""The statistics that can define a style: one matrix per sample. The loss is the squared distance to the style's matrix.

.. math:: L = w |S(F) - A|^2

with ``F`` a layer's features, ``C`` channels at ``N`` positions, and ``A`` the statistic of the style. All are computed in
float32 whatever the features' precision. A weighted sum over several styles folds into one target, as for Gram matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from impasto_engine.losses import gram
from impasto_engine.parameters import GUIDABLE, StyleLossName

BINS = 256
"""Number of bins of averaged sorted values: enough to distinguish distributions, and independent of the picture's size."""
_SMALL = 1e-6

Features = Float[Tensor, "batch channels height width"]
Guide = Float[Tensor, "batch 1 height width"]


def statistic(name: StyleLossName, features: Features, guide: Guide | None = None) -> Float[Tensor, "batch _ _"]:
    """Return a statistic of each sample's features.

    Args:
        name: Name of the statistic.
        features: Features at one layer.
        guide: Weight of each position, with a mean square of 1; None for uniform weights. These are the guides of Gatys et al.
            ("Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017), section 4, eq. 5, where their squares sum
            to 1.

    Raises:
        ValueError: If the statistic cannot be guided.
    """
    if features.dtype != torch.float64:
        features = features.float()
    if guide is None:
        return _STATISTICS[name](features, None)
    if name not in GUIDABLE:
        raise ValueError(f"{name} cannot be guided")
    return _STATISTICS[name](features, guide)


def _gram(features: Tensor, guide: Tensor | None) -> Tensor:
    return gram(features if guide is None else features * guide)


def _mean(features: Tensor, guide: Tensor | None) -> Tensor:
    weighted = features if guide is None else features * guide.square()
    return weighted.mean(dim=(2, 3))


def _covariance(features: Tensor, guide: Tensor | None) -> Tensor:
    r"""Return covariance and mean side by side, ``[C, C + 1]``.

    .. math:: \left[\, G - \mu \mu^T \mid \mu \,\right]

    The Gram matrix of the centred features, and the mean that centring removes. The mean activation is thereby separated from
    the correlations between channels (Novak & Nikulin 2016 shift by a constant instead).
    """
    mean = _mean(features, guide)[:, :, None]
    # Centre before the product: the difference of two large matrices would suffer from cancellation.
    centred = features - mean[..., None]
    product = gram(centred if guide is None else centred * guide)
    return torch.cat([product, mean], dim=2)


def _moments(features: Tensor, guide: Tensor | None) -> Tensor:
    r"""Return mean and standard deviation of each channel, ``[C, 2]`` (Li et al., IJCAI 2017, eq. 9; Huang & Belongie 2017).

    .. math:: \left[\, \mu \mid \sqrt{\overline{(F - \mu)^2} + 10^{-6}} \,\right]
    """
    mean = _mean(features, guide)
    variance = _mean((features - mean[..., None, None]).square(), guide)
    return torch.stack([mean, (variance + _SMALL).sqrt()], dim=2)


def _sorted(flat: Float[Tensor, "batch rows positions"]) -> Tensor:
    r"""Return each row's sorted values, averaged into 256 bins of equal weight and scaled, ``[rows, 256]``.

    .. math:: S_{rb} = \overline{\mathrm{sort}(F_r)}_{b} / \sqrt{256}

    Up to the binning, the squared distance is the squared 2-Wasserstein distance between the rows' distributions. Applied to
    the channels, this matches their histograms (Risser et al. 2017, without resampling the target at each step). Applied to
    directions in channel space, it is the sliced Wasserstein distance (Heitz et al., CVPR 2021, eq. 6). Departure: the
    directions are a fixed orthonormal basis instead of being redrawn at each step, since L-BFGS needs a deterministic loss.
    """
    ordered = flat.sort(dim=2).values
    binned: Tensor = F.adaptive_avg_pool1d(ordered, BINS) / BINS**0.5
    return binned


@functools.lru_cache(maxsize=32)
def _directions(channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a random orthonormal basis that depends only on the number of channels."""
    drawn = torch.randn(channels, channels, generator=torch.Generator().manual_seed(channels), dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(drawn).Q
    return basis.to(device, dtype)


def _sliced(features: Tensor, guide: Tensor | None) -> Tensor:
    flat = features.flatten(2)
    return _sorted(torch.matmul(_directions(features.shape[1], flat.device, flat.dtype), flat))


def _histogram(features: Tensor, guide: Tensor | None) -> Tensor:
    return _sorted(features.flatten(2))


_STATISTICS: Mapping[StyleLossName, Callable[[Tensor, Tensor | None], Tensor]] = {
    "gram": _gram,
    "covariance": _covariance,
    "moments": _moments,
    "sliced": _sliced,
    "histogram": _histogram,
}
"""All statistics. Add a new one here, in :data:`impasto_engine.parameters.StyleLossName`, and in the contract."""
