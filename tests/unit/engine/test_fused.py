"""Convolutions with their rectifier in one pass, and rectifiers after a max pooling: the same values up to rounding."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from impasto_engine import fused, networks
from impasto_engine.networks import Network, WeightsInfo, random_trunk
from impasto_engine.parameters import Arithmetic, Pooling

CPU = torch.device("cpu")


def plain(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: object, padding: object) -> torch.Tensor:
    """The two operations one after the other."""
    return F.relu(F.conv2d(features, weight, bias, stride, padding))  # type: ignore[arg-type]


def near(one: torch.Tensor, other: torch.Tensor, precision: Arithmetic) -> bool:
    """Whether two tensors agree: oneDNN may choose another algorithm for the fused operation."""
    limit = 1e-5 if precision == "float32" else 0.02
    difference = (one - other).detach()
    return one.shape == other.shape and float(difference.abs().max()) <= limit * float(other.detach().abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_two_operations(dtype: torch.dtype, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 8, 3, 3).to(dtype).contiguous(memory_format=layout)
    bias = torch.randn(16).to(dtype)
    found = []
    for convolve in (fused.convolve_rectified, plain):
        torch.manual_seed(1)
        features = torch.randn(2, 8, 21, 13).to(dtype).contiguous(memory_format=layout).requires_grad_()
        rectified = convolve(features, weight, bias, (2, 1), (1, 0))
        found.append((rectified, *torch.autograd.grad(rectified.square().sum(), features)))
    for one, other in zip(*found, strict=True):
        assert near(one, other, "float32" if dtype == torch.float32 else "bfloat16")


def test_without_onednn_the_two_operations_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_FUSED", None)
    features, weight, bias = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
    assert torch.equal(fused.convolve_rectified(features, weight, bias, (1, 1), (1, 1)), plain(features, weight, bias, 1, 1))


OLDER_CPU = """
import torch
from impasto_engine.networks import Network, WeightsInfo, random_trunk

network = Network(random_trunk("vgg16", 2), WeightsInfo("random-2", ""), torch.device("cpu"))
canvas = torch.rand(1, 3, 16, 16)
one, other = (network.features(canvas, ("relu2_1",), "max", name)["relu2_1"] for name in ("float32", "bfloat16"))
assert 0 < float((one - other).abs().max()) < 0.02 * float(one.abs().max())
"""


def test_bfloat16_is_computed_on_cpus_without_instructions_for_it() -> None:
    """A job that asks for it, or that began on a CPU that has them: oneDNN's operator refuses it, torch's own does not."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    ran = subprocess.run(
        [sys.executable, "-c", OLDER_CPU], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize(
    "layers", [("relu3_1",), ("conv1_2", "pool1", "relu2_2", "pool2"), ("relu1_2", "pool3"), ("conv2_2", "conv4_1")]
)
def test_a_network_is_the_chain_of_its_modules(precision: Arithmetic, pooling: Pooling, layers: tuple[str, ...]) -> None:
    """Whichever layers are read: each has its own values, and the gradient of their sum is the chain's."""
    trunk = random_trunk("vgg16", 2)
    network = Network(trunk, WeightsInfo("random-2", "", std=(1.0, 1.0, 1.0)), CPU)
    canvas = torch.rand(1, 3, 35, 50, generator=torch.Generator().manual_seed(3))

    def run(features: torch.Tensor) -> dict[str, torch.Tensor]:
        features = (features - network._mean).to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
        features = features.contiguous(memory_format=network.layout)
        seen = {}
        for index, name in enumerate(network.layers[: max(map(network.depth, layers)) + 1]):
            if name.startswith("conv"):
                features = F.conv2d(features, *network._resident(precision)[index], padding=1)
            elif name.startswith("relu"):
                features = F.relu(features)
            else:
                features = F.max_pool2d(features, 2) if pooling == "max" else F.avg_pool2d(features, 2)
            seen[name] = features
        return {layer: seen[layer] for layer in layers}

    def through(features: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = {}

        def keep(layer: str) -> networks.Tap:
            def tap(values: torch.Tensor) -> torch.Tensor:
                seen[layer] = values
                return values

            return tap

        network.forward(features, {layer: keep(layer) for layer in layers}, pooling, precision)
        return seen

    found = []
    for passed in (run, through):
        leaf = canvas.clone().requires_grad_()
        seen = passed(leaf)
        gradient = torch.autograd.grad(sum(values.float().square().sum() for values in seen.values()), leaf)[0]
        found.append([*(seen[layer] for layer in layers), gradient])
    for one, other in zip(*found, strict=True):
        assert near(one, other, precision)


def test_rectifiers_run_on_a_quarter_of_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(random_trunk("vgg16", 2), WeightsInfo("random-2", ""), CPU)
    sizes: list[int] = []
    monkeypatch.setattr(networks.F, "relu", lambda values, **_: sizes.append(values.shape[-1]) or values.relu())
    network.features(torch.rand(1, 3, 64, 64), ("relu3_1",), "max")
    assert sizes == [32, 16]
