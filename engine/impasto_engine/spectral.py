r"""Curvature by spatial frequency and colour: the initial inverse-Hessian scaling, which L-BFGS then refines.

A network responds far more strongly to brightness edges than to slow changes of colour, so the curvature of the loss differs
by orders of magnitude between them. With a single initial scale, L-BFGS needs about a hundred steps to learn this. Here the
canvas is split into octaves of spatial frequency and three decorrelated colours. Each part has its own scale, computed from
its components of the recent steps ``s`` and gradient changes ``y``:

.. math:: h = \sqrt{\frac{\sum |s|^2}{\sum |y|^2}}

the geometric mean of the two Barzilai-Borwein step lengths (IMA J. Numer. Anal. 1988), ``s.s / s.y`` and ``s.y / y.y``. The
shorter one, which is the usual single scale of L-BFGS, is too conservative for a part with a wide range of curvatures; steps
based on the longer one are rejected too often. For measurements see docs/lab/performance.md.
"""

from __future__ import annotations

import math
import weakref
from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

from impasto_engine.products import product

MAX_BANDS = 8
SMALLEST_SCALE, LARGEST_SCALE = 0.02, 500.0
"""Limits of a part's scale, relative to the scale of the whole canvas."""
_HIGHEST = math.sqrt(0.5)
_COLOURS = (
    (3**-0.5, 3**-0.5, 3**-0.5),
    (2**-0.5, 0.0, -(2**-0.5)),
    (6**-0.5, -2 * 6**-0.5, 6**-0.5),
)
"""Brightness, red minus blue, green minus the others: close to the principal axes of colours in natural pictures."""


class Spectrum:
    """Octave bands of canvases of one size. Use :func:`spectrum`, which caches instances.

    Args:
        height: Canvas height.
        width: Canvas width.
        device: Device of the canvases.
    """

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        self.shape = (height, width)
        self.count = max(1, min(MAX_BANDS, int(math.log2(min(height, width))) - 2))
        down = torch.fft.fftfreq(height, device=device)[:, None]
        right = torch.fft.rfftfreq(width, device=device)[None, :]
        frequency = (down.square() + right.square()).sqrt().clamp_min(1e-6)
        octave = (-torch.log2(frequency / _HIGHEST)).clamp(0, self.count - 1)
        # Half-overlapping triangles: a partition of unity, so that scales vary smoothly with frequency.
        self.bands = torch.stack([(1 - (octave - band).abs()).clamp_min(0) for band in range(self.count)])
        # The real FFT stores half of the spectrum. All columns except the first and, for even widths, the last count twice.
        self._twice = torch.full((width // 2 + 1,), 2.0, device=device)
        self._twice[0] = 1
        if width % 2 == 0:
            self._twice[-1] = 1
        self._colours = torch.tensor(_COLOURS, device=device)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors that it holds on the device."""
        return self.bands, self._twice, self._colours

    def moments(
        self, step: Float[Tensor, "batch 3 height width"], change: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 2 3 bands"]:
        """Return the squared length of a step and of a gradient change in each colour and band."""
        return torch.stack([self._energy(step), self._energy(change)], dim=1)

    def scale(
        self, vector: Float[Tensor, "batch 3 height width"], scales: Float[Tensor, "batch 3 bands"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Multiply each part of the canvases by its scale: a symmetric map, positive definite for positive scales."""
        gains = torch.einsum("bck,khw->bchw", scales.log(), self.bands).exp()
        mixed = torch.fft.irfft2(self._transform(vector) * gains, s=self.shape, norm="ortho")
        canvas: Tensor = torch.einsum("ji,bjhw->bihw", self._colours, mixed)
        return canvas

    def _energy(self, canvas: Tensor) -> Tensor:
        parts = torch.view_as_real(self._transform(canvas)).square().sum(dim=-1) * self._twice
        return product(parts.flatten(0, 1).flatten(1)[None], self.bands.flatten(1)[None]).view(*canvas.shape[:2], self.count)

    def _transform(self, canvas: Tensor) -> Tensor:
        transformed: Tensor = torch.fft.rfft2(torch.einsum("ij,bjhw->bihw", self._colours, canvas), norm="ortho")
        return transformed


def scales(moments: Float[Tensor, "batch 2 3 bands"]) -> Float[Tensor, "batch 3 bands"]:
    """Return each part's scale from its moments; all ones before the first pair."""
    steps, changes = moments.unbind(dim=1)
    whole = (steps.sum(dim=(1, 2)) / changes.sum(dim=(1, 2))).sqrt().nan_to_num(1.0)[:, None, None]
    found = (steps / changes).sqrt().nan_to_num(0.0, posinf=torch.inf)
    return torch.clamp(found, whole * SMALLEST_SCALE, whole * LARGEST_SCALE)


def spectrum(height: int, width: int, device: torch.device) -> Spectrum:
    """Return the bands of a canvas size: the same object for as long as somebody keeps it, or it is among the last ones used.

    It takes 16 bytes per pixel, so that it must not outlive the canvases of its size by much.
    """
    key = height, width, device
    found = _known.get(key)
    if found is None:
        found = _known[key] = Spectrum(height, width, device)
    if found not in _last:
        _last.append(found)
    return found


def spectrum_of(canvas: Float[Tensor, "batch 3 height width"]) -> Spectrum:
    """Return the bands of canvases."""
    height, width = canvas.shape[2:]
    return spectrum(height, width, canvas.device)


_known: weakref.WeakValueDictionary[tuple[int, int, torch.device], Spectrum] = weakref.WeakValueDictionary()
_last: deque[Spectrum] = deque(maxlen=2)
