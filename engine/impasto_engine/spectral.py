r"""Curvature by spatial frequency and colour: the first guess of the inverse Hessian, which L-BFGS then refines.

A network sees edges of brightness far better than slow changes of colour, so the loss's curvature differs by orders of
magnitude between them. L-BFGS with a single scale for its first guess spends a hundred steps learning that. Here the canvas
is split into octaves of spatial frequency and three decorrelated colours, and each part has a scale of its own, from what
the last steps ``s`` and gradient changes ``y`` did there:

.. math:: h = \sqrt{\frac{\sum |s|^2}{\sum |y|^2}}

the geometric mean of the two Barzilai-Borwein lengths (IMA J. Numer. Anal. 1988), ``s.s / s.y`` and ``s.y / y.y``. The
shorter one, which L-BFGS uses for its single scale, is too careful where a part holds many curvatures; steps by the longer
one are taken back too often. Measured in docs/PERFORMANCE.md.
"""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

MAX_BANDS = 8
SMALLEST_SCALE, LARGEST_SCALE = 0.02, 500.0
"""Limits of a part's scale relative to that of the whole canvas."""
_HIGHEST = math.sqrt(0.5)
_COLOURS = (
    (3**-0.5, 3**-0.5, 3**-0.5),
    (2**-0.5, 0.0, -(2**-0.5)),
    (6**-0.5, -2 * 6**-0.5, 6**-0.5),
)
"""Brightness, red against blue, green against the others: near the principal axes of natural pictures' colours."""


class Spectrum:
    """Octave bands of canvases of one size. Use :func:`spectrum`, which keeps them.

    Args:
        height: Of the canvas.
        width: Of the canvas.
        device: Where the canvases are.
    """

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        self.shape = (height, width)
        self.count = max(1, min(MAX_BANDS, int(math.log2(min(height, width))) - 2))
        down = torch.fft.fftfreq(height, device=device)[:, None]
        right = torch.fft.rfftfreq(width, device=device)[None, :]
        frequency = (down.square() + right.square()).sqrt().clamp_min(1e-6)
        octave = (-torch.log2(frequency / _HIGHEST)).clamp(0, self.count - 1)
        # Triangles that overlap by half: a partition of unity, so that scales change smoothly with frequency.
        self.bands = torch.stack([(1 - (octave - band).abs()).clamp_min(0) for band in range(self.count)])
        # Half of the spectrum is left out because it mirrors the other half; only the first and last column stand alone.
        twice = torch.full((width // 2 + 1,), 2.0, device=device)
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        self._shares = self.bands * twice
        self._colours = torch.tensor(_COLOURS, device=device)

    def moments(
        self, step: Float[Tensor, "batch 3 height width"], change: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 2 3 bands"]:
        """Return the squared length of a step and of a gradient change in each colour and band."""
        return torch.stack([self._energy(step), self._energy(change)], dim=1)

    def scale(
        self, vector: Float[Tensor, "batch 3 height width"], scales: Float[Tensor, "batch 3 bands"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the canvases with each part multiplied by its scale: symmetric, and positive where the scales are."""
        gains = torch.einsum("bck,khw->bchw", scales.log(), self.bands).exp()
        mixed = torch.fft.irfft2(self._transform(vector) * gains, s=self.shape, norm="ortho")
        canvas: Tensor = torch.einsum("ji,bjhw->bihw", self._colours, mixed)
        return canvas

    def _energy(self, canvas: Tensor) -> Tensor:
        parts = torch.view_as_real(self._transform(canvas)).square().sum(dim=-1)
        return torch.einsum("bchw,khw->bck", parts, self._shares)

    def _transform(self, canvas: Tensor) -> Tensor:
        transformed: Tensor = torch.fft.rfft2(torch.einsum("ij,bjhw->bihw", self._colours, canvas), norm="ortho")
        return transformed


def scales(moments: Float[Tensor, "batch 2 3 bands"]) -> Float[Tensor, "batch 3 bands"]:
    """Return each part's scale out of its moments; all ones where nothing is known yet."""
    steps, changes = moments.unbind(dim=1)
    whole = (steps.sum(dim=(1, 2)) / changes.sum(dim=(1, 2))).sqrt().nan_to_num(1.0)[:, None, None]
    found = (steps / changes).sqrt().nan_to_num(0.0, posinf=torch.inf)
    return torch.clamp(found, whole * SMALLEST_SCALE, whole * LARGEST_SCALE)


@functools.lru_cache(maxsize=32)
def spectrum(height: int, width: int, device: torch.device) -> Spectrum:
    """Return the bands of a canvas size, kept from call to call."""
    return Spectrum(height, width, device)
