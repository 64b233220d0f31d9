from __future__ import annotations

import pytest
import torch

from impasto_engine.spectral import LARGEST_SCALE, SMALLEST_SCALE, scales, spectrum

CPU = torch.device("cpu")
SIZES = [(32, 48), (33, 47), (16, 16), (64, 31)]


def canvases(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_bands_share_out_the_whole(height: int, width: int) -> None:
    """The bands sum to one at every frequency, and their energies to the canvas's energy."""
    bands = spectrum(height, width, CPU)
    torch.testing.assert_close(bands.bands.sum(dim=0), torch.ones_like(bands.bands[0]))
    canvas = canvases(height, width)
    energies = bands.moments(canvas, 2 * canvas)
    torch.testing.assert_close(energies[:, 0].sum(dim=(1, 2)), canvas.square().sum(dim=(1, 2, 3)), rtol=1e-4, atol=0)
    torch.testing.assert_close(energies[:, 1], 4 * energies[:, 0])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_scaling_is_symmetric_positive_and_one_for_ones(height: int, width: int) -> None:
    """L-BFGS requires this of its initial inverse Hessian. Each canvas of a batch has its own scales."""
    bands = spectrum(height, width, CPU)
    one, other = canvases(height, width), canvases(height, width).flip(3)
    gains = torch.logspace(-2, 2, 3 * bands.count).view(1, 3, bands.count).expand(2, -1, -1).clone()
    torch.testing.assert_close(bands.scale(one, torch.ones_like(gains)), one, rtol=1e-4, atol=1e-5)
    forth = (bands.scale(one, gains) * other).sum()
    back = (one * bands.scale(other, gains)).sum()
    torch.testing.assert_close(forth, back, rtol=1e-3, atol=1e-2)
    assert bool(((bands.scale(one, gains) * one).sum(dim=(1, 2, 3)) > 0).all())
    gains[1] *= 3
    torch.testing.assert_close(bands.scale(one, gains)[1], bands.scale(one, gains / 3)[1] * 3, rtol=1e-3, atol=1e-3)


def test_a_part_is_scaled_by_what_steps_and_changes_were_there() -> None:
    """Curvatures of 4 in one colour and 1/4 in another are recovered, up to the limits."""
    bands = spectrum(32, 32, CPU)
    step = canvases(32, 32, 1)
    curvature = torch.tensor([4.0, 1.0, 0.25]).view(1, 3, 1).expand(1, 3, bands.count)
    found = scales(bands.moments(step, bands.scale(step, curvature)))
    torch.testing.assert_close(found, 1 / curvature, rtol=1e-3, atol=0)
    extreme = torch.tensor([1.0, 1.0, 1e-9]).view(1, 3, 1).expand(1, 3, bands.count)
    found = scales(bands.moments(step, bands.scale(step, extreme)))
    assert float(found.max() / found.min()) <= LARGEST_SCALE / SMALLEST_SCALE


def test_without_knowledge_every_scale_is_usable() -> None:
    """Without a pair, or with pairs that never moved a part, scales are finite and positive."""
    nothing = scales(torch.zeros(1, 2, 3, 4))
    assert bool((nothing.isfinite() & (nothing > 0)).all())
    moments = torch.ones(1, 2, 3, 4)
    moments[0, :, 1] = 0
    moments[0, 1, 2] = 0
    found = scales(moments)
    assert bool((found.isfinite() & (found > 0)).all())
