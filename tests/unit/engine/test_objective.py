import pytest
import torch

from impasto_engine import painting, reference
from impasto_engine.losses import gram
from impasto_engine.networks import Network
from impasto_engine.objective import (
    FLOOR,
    STYLE_FLOOR,
    Objective,
    StackedObjectives,
    content_targets,
    style_targets,
    to_canvas,
    to_pixels,
)
from impasto_engine.parameters import Parameters, fitted

CANVAS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
CONTENT = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
STYLES = [torch.rand(1, 3, 48, 32, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)]
LAYERS = {"relu1_1": 0.3, "relu3_1": 0.7}


def grams(features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {layer: gram(seen)[0] for layer, seen in features.items()}


def terms(network: Network, objective: Objective, canvas: torch.Tensor = CANVAS) -> list[float]:
    return StackedObjectives([objective], network).evaluate(network, canvas, "max", "float32").terms[0].tolist()


def test_normalized_losses_are_relative_errors(network: Network) -> None:
    """A layer's loss is its squared error over its target's squared norm, so a black canvas scores about one."""
    features = network.features(CONTENT, ("relu4_2",))
    objective = Objective(content_targets(features, {"relu4_2": 1.0}, 1.0, "target"))
    seen = network.features(CANVAS, ("relu4_2",))["relu4_2"]
    wanted = (seen - features["relu4_2"]).square().sum() / features["relu4_2"].square().sum()
    assert terms(network, objective)[0] == pytest.approx(float(wanted), rel=1e-4)
    assert terms(network, objective, CONTENT)[0] == pytest.approx(0, abs=1e-9)


def test_gatys_losses_are_the_papers_equations(network: Network) -> None:
    """1/2 sum (F - P)^2 for content; 1 / (4 N^2 M^2) sum (G - A)^2 with Gram sums over positions for style."""
    layer = "relu2_1"
    content = network.features(CONTENT, (layer,))
    style = network.features(STYLES[0], (layer,))
    objective = Objective(
        content_targets(content, {layer: 1.0}, 1.0, "gatys"),
        [style_targets([grams(style)], [1.0], {layer: 1.0}, 1.0, "gatys")],
    )
    seen = network.features(CANVAS, (layer,))[layer]
    channels, positions = seen.shape[1], seen[0, 0].numel()
    flat, target = seen[0].flatten(1).double(), style[layer][0].flatten(1).double()
    # The paper's G is a sum over the canvas's M positions; a style of another size is rescaled to M.
    found_gram, wanted_gram = flat @ flat.T, target @ target.T * (positions / target.shape[1])
    style_loss = (found_gram - wanted_gram).square().sum() / (4 * channels**2 * positions**2)
    content_loss = (seen - content[layer]).square().sum() / 2
    found = terms(network, objective)
    assert found[0] == pytest.approx(float(content_loss), rel=1e-4)
    assert found[1] == pytest.approx(float(style_loss), rel=1e-4)


@pytest.mark.parametrize("normalization", ["target", "gatys", "mean"])
def test_several_styles_cost_what_one_does_and_sum_as_they_should(network: Network, normalization: str) -> None:
    """The loss of the folded target equals the weighted sum of the styles' losses."""
    values = [grams(network.features(style, tuple(LAYERS))) for style in STYLES]
    shares = [0.75, 0.25]
    mixed = terms(network, Objective({}, [style_targets(values, shares, LAYERS, 2.0, normalization)]))[1]
    alone = [terms(network, Objective({}, [style_targets([value], [1.0], LAYERS, 2.0, normalization)]))[1] for value in values]
    assert mixed == pytest.approx((3 * alone[0] + alone[1]) / 4, rel=1e-4)


def test_samples_of_a_batch_do_not_mix(network: Network) -> None:
    """Two objectives with different layers give the same losses and gradients together as alone."""
    content = Objective(content_targets(network.features(CONTENT, ("relu3_2",)), {"relu3_2": 1.0}, 1.0, "target"), (), 0.5)
    values = [grams(network.features(STYLES[0], tuple(LAYERS)))]
    style = Objective({}, [style_targets(values, [1.0], LAYERS, 1.0, "target")])
    both = torch.cat([CANVAS, CONTENT])
    together = StackedObjectives([content, style], network).evaluate(network, both, "average", "float32")
    for index, objective in enumerate((content, style)):
        alone = StackedObjectives([objective], network).evaluate(network, both[index : index + 1], "average", "float32")
        torch.testing.assert_close(together.terms[index : index + 1], alone.terms, rtol=1e-4, atol=1e-7)
        scale = float(alone.gradient.abs().max())
        torch.testing.assert_close(together.gradient[index : index + 1], alone.gradient, rtol=1e-3, atol=1e-4 * scale)


def test_pixels_survive_the_way_to_the_canvas_and_back() -> None:
    """All 256 values survive the round trip; values outside [0, 1] are clipped, not wrapped."""
    pixels = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3).contiguous()
    assert torch.equal(to_pixels(to_canvas(pixels, torch.device("cpu"))[0]), pixels)
    outside = torch.tensor([-0.5, 1.5, 0.5]).view(3, 1, 1)
    assert to_pixels(outside).flatten().tolist() == [0, 255, 128]


def test_a_flat_content_or_style_weighs_no_more_than_others(network: Network) -> None:
    """The normalizer has a floor, so that a grey card or a flat style does not dominate the loss."""
    grey = torch.full((1, 3, 32, 32), 0.5)
    features = network.features(grey, ("relu2_1",))
    weights = {"relu2_1": 1.0}
    squares = float(features["relu2_1"].square().mean())
    usual = {"relu2_1": 1000 * squares}
    alone = content_targets(features, weights, 1.0, "target")["relu2_1"].coefficient
    bounded = content_targets(features, weights, 1.0, "target", usual)["relu2_1"].coefficient
    assert alone / bounded == pytest.approx(1000 * FLOOR, rel=1e-3)
    values = [grams(features)]
    usual = {"relu2_1": 1000 * float(values[0]["relu2_1"].square().mean())}
    alone = style_targets(values, [1.0], weights, 1.0, "target")["relu2_1"].coefficient
    bounded = style_targets(values, [1.0], weights, 1.0, "target", usual=usual)["relu2_1"].coefficient
    assert alone / bounded == pytest.approx(1000 * STYLE_FLOOR, rel=1e-3)
    assert content_targets(features, weights, 1.0, "mean", usual)["relu2_1"].coefficient == 1 / features["relu2_1"].numel()


def test_a_natural_picture_is_the_same_every_time_and_answered_to() -> None:
    """It has the contrast and spectrum of photographs, and the engine's floor is well below its power."""
    picture = reference.picture().float()
    assert picture.shape == (128, 128, 3)
    assert 100 < float(picture.mean()) < 130
    assert 45 < float(picture.std()) < 60
    fine = (picture[1:] - picture[:-1]).square().mean()
    assert 0.02 < float(fine / picture.var()) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_grey_card_is_painted(network: Network, precision: str) -> None:
    """Starting from a content without structure, the canvas still takes on the style."""
    card = torch.full((64, 64, 3), 136, dtype=torch.uint8)
    style = to_pixels(torch.nn.functional.interpolate(STYLES[0], (64, 64), mode="bicubic")[0])
    parameters = fitted(Parameters(size_px=64, steps=30, precision=precision), "vgg16:builtin", "default", ())  # type: ignore[arg-type]
    job = painting.Job(64, 64, card, (painting.Style(style),), parameters)
    picture, _ = painting.paint(network, job)
    assert float(picture.float().std(dim=(0, 1)).mean()) > 8
    canvas = to_canvas(picture, network.device)[0]
    assert painting.change(canvas, job) > 8
    assert painting.change(to_canvas(card, network.device)[0], job) == 0
