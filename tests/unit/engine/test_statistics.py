from typing import get_args

import pytest
import torch
from torch.autograd import gradcheck

from impasto_engine.losses import gram
from impasto_engine.parameters import GUIDABLE, StyleLossName
from impasto_engine.statistics import BINS, statistic

NAMES = get_args(StyleLossName)
GUIDED = GUIDABLE


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def guide(*shape: int) -> torch.Tensor:
    drawn = draw(*shape, seed=5).abs()
    return drawn / drawn.square().mean().sqrt()


@pytest.mark.parametrize("name", NAMES)
def test_each_statistic_has_the_gradient_it_claims(name: StyleLossName) -> None:
    """float64 gradient check of the squared distance to another picture's statistic."""
    wanted = statistic(name, draw(2, 3, 5, 4, seed=1))
    assert gradcheck(lambda features: (statistic(name, features) - wanted).square().sum(), draw(2, 3, 5, 4).requires_grad_())


@pytest.mark.parametrize("name", GUIDED)
def test_guided_statistics_have_the_gradient_they_claim(name: StyleLossName) -> None:
    """With a weight for each position."""
    weights, wanted = guide(2, 1, 5, 4), statistic(name, draw(2, 3, 5, 4, seed=1))
    assert gradcheck(
        lambda features: (statistic(name, features, weights) - wanted).square().sum(), draw(2, 3, 5, 4).requires_grad_()
    )


@pytest.mark.parametrize("name", NAMES)
def test_where_things_are_does_not_matter(name: StyleLossName) -> None:
    """A style does not depend on location: permuting the positions does not change the statistic."""
    features = draw(1, 3, 6, 5)
    moved = features.flatten(2)[:, :, torch.randperm(30, generator=torch.Generator().manual_seed(2))].view(1, 3, 6, 5)
    torch.testing.assert_close(statistic(name, moved), statistic(name, features))


@pytest.mark.parametrize("name", GUIDED)
def test_a_guide_of_ones_and_zeros_cuts_a_part_out(name: StyleLossName) -> None:
    """The guided statistic of the whole equals the unguided statistic of the part."""
    features = draw(1, 3, 6, 8)
    weights = torch.zeros(1, 1, 6, 8, dtype=torch.float64)
    weights[..., :4] = 2**0.5  # half of the positions, so that the mean square is 1
    torch.testing.assert_close(statistic(name, features, weights), statistic(name, features[..., :4]))


def test_covariance_is_the_gram_matrix_of_shifted_features_and_their_mean() -> None:
    """They are concatenated."""
    features = draw(1, 3, 6, 5)
    mean = features.mean(dim=(2, 3))
    found = statistic("covariance", features)
    torch.testing.assert_close(found[..., :3], gram(features - mean[..., None, None]))
    torch.testing.assert_close(found[..., 3], mean)


def test_moments_are_mean_and_deviation() -> None:
    """For each channel."""
    features = draw(1, 3, 16, 15)
    found = statistic("moments", features)
    torch.testing.assert_close(found[0, :, 0], features[0].mean(dim=(1, 2)))
    torch.testing.assert_close(found[0, :, 1], features[0].flatten(1).std(dim=1, correction=0), rtol=1e-5, atol=1e-6)


def test_histograms_are_the_distance_between_distributions() -> None:
    """A channel shifted by d is at Wasserstein distance d, whatever its distribution and the pictures' sizes."""
    features = draw(1, 1, 40, 40)
    apart = statistic("histogram", features + 0.7) - statistic("histogram", features)
    assert float(apart.square().sum()) == pytest.approx(0.7**2, rel=1e-9)
    assert statistic("histogram", draw(1, 3, 9, 7)).shape == (1, 3, BINS)


def test_sliced_sees_what_channels_do_together() -> None:
    """Two channels that are correlated or anticorrelated have the same histograms but different slices."""
    one = draw(1, 1, 20, 20)
    together, against = torch.cat([one, one], dim=1), torch.cat([one, one.flip(3)], dim=1)
    torch.testing.assert_close(statistic("histogram", together), statistic("histogram", against))
    assert not torch.allclose(statistic("sliced", together), statistic("sliced", against), atol=1e-3)


def test_a_distribution_cannot_be_guided() -> None:
    """It raises an error instead of returning a wrong result."""
    with pytest.raises(ValueError, match="cannot be guided"):
        statistic("sliced", draw(1, 2, 4, 4), guide(1, 1, 4, 4))
