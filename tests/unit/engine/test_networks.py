import sys

import pytest
import torch
from torch import nn

from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.networks import Network, WeightsInfo, random_trunk
from impasto_engine.objective import StackedObjectives
from impasto_engine.painting import Job, Style, objective
from impasto_engine.parameters import Arithmetic, Parameters
from impasto_engine.trunks import own_trunk
from impasto_engine.weights import FILES, MissingPackageError

models = pytest.importorskip("torchvision").models
CANVAS = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(3))


def test_layers_carry_the_papers_names() -> None:
    """Thirteen convolutions in five blocks, each followed by a ReLU, and five pooling layers."""
    names = ARCHITECTURES["vgg16"].layer_names
    assert names[:5] == ("conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1")
    assert names[-3:] == ("conv5_3", "relu5_3", "pool5")
    assert len(names) == 31


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_answers_as_torchvisions_does(name: str) -> None:
    """Same values, channels and stride at every layer with the same random filters; the smallest canvas gives positions."""
    architecture, seed = ARCHITECTURES[name], 3
    weights = WeightsInfo("random-3", "", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    network = Network(random_trunk(name, seed), weights, torch.device("cpu"), name)
    peer = getattr(models, name)(weights=None).features.eval()
    peer.load_state_dict(random_trunk(name, seed).state_dict())
    canvas = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(3))
    found = network.features(canvas, architecture.layer_names)
    wanted = canvas
    for layer, module in zip(architecture.layers, peer, strict=True):
        wanted = module(wanted.clone()).detach()
        torch.testing.assert_close(found[layer.name], wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
        assert wanted.shape[1] == layer.channels
        assert wanted.shape[3] == pytest.approx(128 / layer.stride_px, abs=1.5)
    smallest = torch.zeros(1, 3, architecture.min_side_px, architecture.min_side_px)
    deepest = architecture.first_layers[-1]
    assert network.features(smallest, (deepest,))[deepest].numel() > 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_our_definition_of_each_network_is_torchvisions(name: str) -> None:
    """The same modules in the same order with the same keys, and the same values; it serves where torchvision is missing."""
    peer, ours = getattr(models, name)(weights=None).features.eval(), own_trunk(name)
    assert repr(ours) == repr(peer)
    ours.load_state_dict(peer.state_dict())
    canvas = torch.rand(1, 3, 70, 90, generator=torch.Generator().manual_seed(3))
    assert torch.equal(ours(canvas), peer(canvas))


def test_networks_need_no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wheels do not exist for every build of torch."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    network = Network(random_trunk("squeezenet1_1", 3), WeightsInfo("random-3", ""), torch.device("cpu"), "squeezenet1_1")
    assert network.features(CANVAS, ("relu4_1",))["relu4_1"].numel()
    with pytest.raises(MissingPackageError, match="needs the package torchvision"):
        _ = FILES["imagenet"].url


def test_features_are_torchvisions(network: Network) -> None:
    """With the same filters, every layer equals that of torchvision's VGG16 on the normalized picture."""
    torch.manual_seed(0)
    model = models.vgg16(weights=None).features.eval()
    ours = Network(model, WeightsInfo("random", ""), torch.device("cpu"))
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    wanted = (CANVAS - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    layers = ("conv1_1", "relu2_2", "pool3", "relu5_3")
    found = ours.features(CANVAS, layers)
    for name, module in zip(ours.layers, model, strict=True):
        wanted = module(wanted.clone()).detach()
        if name in layers:
            torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_channels_may_lie_last_in_memory(network: Network, precision: Arithmetic) -> None:
    """As on a GPU: losses and gradient agree within rounding, and the gradient is contiguous."""
    last = Network(builtin_stack(), network.weights, torch.device("cpu"), channels_last=True)
    first = Network(builtin_stack(), network.weights, torch.device("cpu"))
    pixels = (CANVAS[0].permute(1, 2, 0) * 255).to(torch.uint8)
    job = Job(32, 48, pixels, [Style(pixels.flip(0, 2))], Parameters())
    noise = CANVAS[1:]
    found, wanted = (
        StackedObjectives([objective(each, job)] * 2, each).evaluate(each, torch.cat([noise, noise]), "average", precision)
        for each in (last, first)
    )
    rounding = 1e-4 if precision == "float32" else 5e-2
    torch.testing.assert_close(found.terms, wanted.terms, rtol=rounding, atol=0)
    assert found.gradient.is_contiguous()
    assert float((found.gradient - wanted.gradient).norm() / wanted.gradient.norm()) < rounding


def builtin_stack() -> nn.Sequential:
    return random_trunk("vgg16", 1)


def test_a_tapped_convolution_is_not_overwritten_by_its_rectifier(network: Network) -> None:
    """The features before the non-linearity keep their negative values after the pass."""
    found = network.features(CANVAS, ("conv2_1", "relu2_1"))
    assert (found["conv2_1"] < 0).any()
    torch.testing.assert_close(found["conv2_1"].relu(), found["relu2_1"])


def test_filters_for_0_to_255_pixels_are_reported_in_common_units() -> None:
    """Caffe filters (deviation 1/255, unit 57.6) and the same filters for unit deviation give the same features."""
    stack = random_trunk("vgg16", 0)
    zero = (0.0, 0.0, 0.0)
    plain = Network(stack, WeightsInfo("plain", "", mean=zero, std=(57.6 / 255,) * 3), torch.device("cpu"))
    caffe_stack = random_trunk("vgg16", 0)
    for module in caffe_stack:
        if isinstance(module, nn.Conv2d):
            module.bias.data *= 57.6
    caffe = Network(caffe_stack, WeightsInfo("caffe", "", mean=zero, std=(1 / 255,) * 3, unit=57.6), torch.device("cpu"))
    layers = ("relu1_1", "relu3_2")
    for layer in layers:
        torch.testing.assert_close(
            plain.features(CANVAS, layers)[layer], caffe.features(CANVAS, layers)[layer], rtol=1e-3, atol=1e-5
        )


def test_pooling_changes_only_what_lies_after_it(network: Network) -> None:
    """Max and average pooling agree before the first pooling layer and differ after it."""
    layers = ("relu1_2", "relu2_1")
    maximum, average = (network.features(CANVAS, layers, pooling) for pooling in ("max", "average"))
    assert torch.equal(maximum["relu1_2"], average["relu1_2"])
    assert not torch.allclose(maximum["relu2_1"], average["relu2_1"])


def test_bfloat16_is_close_to_float32(network: Network) -> None:
    """bfloat16 features differ by a few per cent at the deepest layer."""
    layer = ("relu5_1",)
    full = network.features(CANVAS, layer)["relu5_1"]
    half = network.features(CANVAS, layer, precision="bfloat16")["relu5_1"]
    assert float((full - half).norm() / full.norm()) < 0.05


def test_an_unknown_layer_is_named_with_those_that_are(network: Network) -> None:
    """The error lists the layers."""
    with pytest.raises(ValueError, match=r"no layer 'relu9_9'; it has conv1_1"):
        network.features(CANVAS, ("relu9_9",))


def test_an_empty_objective_costs_no_pass(network: Network) -> None:
    """Without layers the network is not evaluated and the gradient is zero."""
    from impasto_engine.objective import Objective

    evaluation = StackedObjectives([Objective({})] * 2, network).evaluate(network, CANVAS, "max", "float32")
    assert not evaluation.gradient.any()
    assert not evaluation.terms.any()
