import pytest
import torch
from torch.autograd import gradcheck

from impasto_engine.losses import ContentLoss, StyleLoss, gram, total_variation

DOUBLE = torch.float64


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def test_gram_is_the_mean_product_of_channel_pairs() -> None:
    """Gatys 2016 eq. 3 divided by the number of positions, computed as an explicit sum."""
    features = draw(2, 3, 4, 5)
    found = gram(features)
    for sample in range(2):
        for i in range(3):
            for j in range(3):
                wanted = (features[sample, i] * features[sample, j]).sum() / 20
                assert found[sample, i, j] == pytest.approx(float(wanted), rel=1e-12)


def test_content_loss_has_the_gradient_it_claims() -> None:
    """float64 gradient check, with the features also passed on to something deeper."""
    target, coefficient = draw(2, 3, 4, 4, seed=1), torch.tensor([0.7, 1.3], dtype=DOUBLE)

    def loss(features: torch.Tensor) -> torch.Tensor:
        passed, own = ContentLoss.apply(features, target, coefficient)
        return own.sum() + (passed**3).sum()

    assert gradcheck(loss, draw(2, 3, 4, 4).requires_grad_())


def test_style_loss_has_the_gradient_it_claims() -> None:
    """float64 gradient check, with the features also passed on to something deeper."""
    target, coefficient = gram(draw(2, 3, 4, 4, seed=1)), torch.tensor([0.7, 1.3], dtype=DOUBLE)
    rest = torch.zeros(2, dtype=DOUBLE)

    def loss(features: torch.Tensor) -> torch.Tensor:
        passed, own = StyleLoss.apply(features, target, coefficient, rest)
        return own.sum() + (passed**3).sum()

    assert gradcheck(loss, draw(2, 3, 4, 4).requires_grad_())


def test_losses_without_deeper_layers_have_the_same_gradient() -> None:
    """The deepest tap receives no gradient from deeper layers and still returns its own."""
    features = draw(1, 3, 4, 4).requires_grad_()
    target = gram(draw(1, 3, 4, 4, seed=1))
    _, own = StyleLoss.apply(features, target, torch.ones(1, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE))
    found = torch.autograd.grad(own.sum(), features)[0]
    wanted = torch.autograd.grad((gram(features) - target).square().sum(), features)[0]
    torch.testing.assert_close(found, wanted)


def test_a_sample_that_does_not_read_a_layer_has_no_loss_there() -> None:
    """A coefficient of zero gives exactly zero loss and gradient, for that sample only."""
    features = draw(2, 3, 4, 4).requires_grad_()
    _, own = ContentLoss.apply(features, draw(2, 3, 4, 4, seed=1), torch.tensor([0.0, 1.0], dtype=DOUBLE))
    gradient = torch.autograd.grad(own.sum(), features)[0]
    assert own[0] == 0
    assert own[1] > 0
    assert not gradient[0].any()
    assert gradient[1].any()


def test_total_variation_and_its_written_out_gradient_agree() -> None:
    """The explicit gradient equals automatic differentiation of the definition."""
    canvas = draw(2, 3, 5, 6).requires_grad_()
    value, gradient = total_variation(canvas)
    down, right = canvas.diff(dim=2).square().sum(dim=(1, 2, 3)), canvas.diff(dim=3).square().sum(dim=(1, 2, 3))
    wanted = (down + right) / 90
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted.sum(), canvas)[0])


def test_bfloat16_features_keep_small_gram_errors() -> None:
    """Near the target, rounding of bfloat16 features is small relative to the Gram error, not only to the Gram matrix."""
    features = draw(1, 16, 32, 32, dtype=torch.bfloat16).abs()
    exact = gram(features.double())
    target = (exact * (1 + 1e-4)).float()
    coefficient, rest = torch.ones(1), torch.zeros(1)
    _, own = StyleLoss.apply(features, target, coefficient, rest)
    wanted = (exact - target.double()).square().sum()
    assert float(own) == pytest.approx(float(wanted), rel=0.05)
