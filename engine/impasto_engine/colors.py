r"""Colour preservation (Gatys et al. 2016, "Preserving Color in Neural Artistic Style Transfer", arXiv 1606.05897).

Either only the brightness is painted (section 4: "luminance-only transfer"), or the style's colours are first matched to the
content's (section 3: linear "color histogram matching", here with the symmetric square root, which changes colours least).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""
_SMALL = 1e-5

Pixels = UInt8[Tensor, "_ _ 3"]


def grey(pixels: Pixels) -> Pixels:
    """Return a picture's brightness in all three channels."""
    return _bytes(_brightness(_floats(pixels))[..., None].expand(*pixels.shape))


def grey_like(style: Pixels, content: Pixels) -> Pixels:
    """Return the style's brightness with the mean and standard deviation of the content's (eq. 7 of the paper)."""
    own, wanted = _brightness(_floats(style)), _brightness(_floats(content))
    scale = wanted.std() / own.std().clamp_min(_SMALL)
    return _bytes(((own - own.mean()) * scale + wanted.mean())[..., None].expand(*style.shape))


def colored_like(style: Pixels, content: Pixels) -> Pixels:
    r"""Return the style with the mean and covariance of the content's colours.

    .. math:: x' = \Sigma_s^{-1/2} (\Sigma_s^{1/2} \Sigma_c \Sigma_s^{1/2})^{1/2} \Sigma_s^{-1/2} (x - \mu_s) + \mu_c

    A solution of eq. 3 of the paper. Of all solutions it changes the colours least (the Monge map between two Gaussians).
    """
    own, wanted = _floats(style).reshape(-1, 3), _floats(content).reshape(-1, 3)
    root = _power(_covariance(own), 0.5)
    back = _power(_covariance(own), -0.5)
    linear = back @ _power(root @ _covariance(wanted) @ root, 0.5) @ back
    return _bytes(((own - own.mean(dim=0)) @ linear + wanted.mean(dim=0)).reshape(style.shape))


def with_brightness(content: Float[Tensor, "3 height width"], canvas: Float[Tensor, "3 height width"]) -> Tensor:
    """Return the content with the brightness of a canvas.

    A colour that is outside [0, 1] at that brightness is moved towards grey, which preserves its hue.
    """
    luma = canvas.new_tensor(LUMA).view(3, 1, 1)
    wanted = (canvas * luma).sum(dim=0, keepdim=True).clamp(0, 1)
    chroma = content - (content * luma).sum(dim=0, keepdim=True)
    room = torch.where(chroma > 0, (1 - wanted) / chroma, torch.where(chroma < 0, wanted / -chroma, torch.inf))
    return wanted + chroma * room.amin(dim=0, keepdim=True).clamp(0, 1)


def _floats(pixels: Pixels) -> Float[Tensor, "_ _ 3"]:
    return pixels.double() / 255


def _bytes(values: Float[Tensor, "_ _ 3"]) -> Pixels:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def _brightness(values: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width"]:
    return (values * values.new_tensor(LUMA)).sum(dim=2)


def _covariance(values: Float[Tensor, "count 3"]) -> Float[Tensor, "3 3"]:
    centred = values - values.mean(dim=0)
    return centred.T @ centred / len(values) + _SMALL * torch.eye(3, dtype=values.dtype)


def _power(matrix: Float[Tensor, "3 3"], exponent: float) -> Float[Tensor, "3 3"]:
    values, vectors = torch.linalg.eigh(matrix)
    powered: Tensor = vectors @ torch.diag(values.clamp_min(_SMALL**2) ** exponent) @ vectors.T
    return powered
