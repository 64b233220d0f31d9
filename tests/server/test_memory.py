from __future__ import annotations

from dataclasses import replace

import pytest

from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.parameters import Parameters
from impasto_server.memory import OVERHEAD_BYTES, MemoryModel

from .fakes import spec

SQUARE = spec(width=256, height=256)


def test_what_a_job_holds_is_arithmetic() -> None:
    """Of L-BFGS mostly two canvases for each remembered pair; a texture keeps no content features."""
    model = MemoryModel()
    canvas = 256 * 256 * 3 * 4
    short, long = (
        model.demand(replace(SQUARE, parameters=Parameters(history=history)), "float32").held for history in (10, 20)
    )
    assert long - short == 20 * canvas
    adam = model.demand(replace(SQUARE, parameters=Parameters(optimizer="adam")), "float32").held
    assert 6 * canvas < adam - OVERHEAD_BYTES < 10 * canvas
    assert model.demand(replace(SQUARE, content=None), "float32").held < model.demand(SQUARE, "float32").held


def test_a_pass_is_what_was_measured_and_grows_with_the_canvas() -> None:
    """By bytes per pixel, of the job's own arithmetic."""
    model = MemoryModel({"float32": 2000.0, "bfloat16": 1000.0})
    assert model.demand(SQUARE, "bfloat16").passing == 65536 * 1000
    assert model.demand(spec(width=512, height=256), "float32").passing == 2 * 65536 * 2000


def test_a_measurement_can_only_raise_the_estimate() -> None:
    """A resident size that did not grow says nothing."""
    model = MemoryModel({"float32": 2000.0, "bfloat16": 1000.0})
    assert model.learn("float32", 100, 0) == model
    raised = model.learn("float32", 100, 300_000)
    assert raised.bytes_per_pixel == {"float32": 3000.0, "bfloat16": 1000.0}


@pytest.mark.parametrize(("layer", "values"), [("relu1_1", 64), ("pool1", 16), ("conv4_2", 8), ("relu5_1", 2), ("pool5", 0.5)])
def test_the_features_of_a_layer_are_counted_as_the_network_has_them(layer: str, values: float) -> None:
    """Channels over the square of how far it is scaled down."""
    assert ARCHITECTURES["vgg16"].values_per_pixel(layer) == values
