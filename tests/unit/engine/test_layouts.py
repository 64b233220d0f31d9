"""Memory layouts as on a GPU, recorded on the CPU."""

from __future__ import annotations

import pytest
import torch

from impasto_engine.losses import ContentLoss
from impasto_engine.networks import Network, WeightsInfo, random_trunk
from impasto_engine.objective import StackedObjectives
from impasto_engine.painting import Job, Style, objective
from impasto_engine.parameters import Parameters


def test_content_targets_have_the_layout_of_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where a subtraction of two layouts is several times slower, in the forward and the backward pass."""
    last = Network(random_trunk("vgg16", 1), WeightsInfo("random-1", ""), torch.device("cpu"), channels_last=True)
    pixels = torch.randint(0, 255, (32, 48, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    job = Job(32, 48, pixels, [Style(pixels.flip(0, 2))], Parameters())
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    apply = ContentLoss.apply

    def watched(features: torch.Tensor, target: torch.Tensor, coefficient: torch.Tensor) -> object:
        seen.append((features, target))
        return apply(features, target, coefficient)

    monkeypatch.setattr(ContentLoss, "apply", watched)
    StackedObjectives([objective(last, job)] * 2, last).evaluate(last, torch.rand(2, 3, 32, 48), "average", "float32")
    assert seen
    for features, target in seen:
        assert features.is_contiguous(memory_format=torch.channels_last)
        assert target.stride() == features.stride()
