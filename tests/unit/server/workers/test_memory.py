from __future__ import annotations

from dataclasses import replace

import pytest

from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.parameters import Parameters
from impasto_server.workers.memory import FIXED_BYTES, MOST_RAISED, OVERHEAD_BYTES, MemoryModel
from tests.unit.server.fakes import spec

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


def test_a_large_pass_raises_the_estimate_and_smaller_ones_let_it_come_down() -> None:
    """What is fixed is taken off first; never below what the worker's start measured."""
    model = MemoryModel({"float32": 2000.0, "bfloat16": 1000.0})
    pixels = 512 * 512
    raised = model.learn("float32", pixels, FIXED_BYTES + 2500 * pixels)
    assert raised.bytes_per_pixel == {"float32": pytest.approx(2500.0), "bfloat16": 1000.0}
    lower = raised
    for _ in range(200):
        lower = lower.learn("float32", pixels, 0)
    assert lower.bytes_per_pixel["float32"] == pytest.approx(2000.0, rel=0.01)


def test_tiny_passes_and_stray_allocations_teach_nothing_wrong() -> None:
    """One job of 16 px does not make a job of 512 px need gigabytes; nor does one pass that took far too much."""
    model = MemoryModel({"float32": 2000.0, "bfloat16": 1000.0})
    assert model.learn("float32", 16 * 16, 50 << 20) == model
    stray = model.learn("float32", 512 * 512, 20 << 30)
    assert stray.bytes_per_pixel["float32"] == 2000.0 * MOST_RAISED
    again = stray.learn("float32", 512 * 512, 20 << 30)
    assert again.bytes_per_pixel["float32"] == 2000.0 * MOST_RAISED


def test_other_networks_are_counted_by_what_they_take() -> None:
    """A pass of a lighter network that took much raises what VGG16's is thought to take."""
    model = MemoryModel({"float32": 2000.0, "bfloat16": 1000.0})
    pixels = 512 * 512
    assert model.learn("float32", pixels, FIXED_BYTES + 1500 * pixels, 0.6).bytes_per_pixel["float32"] == pytest.approx(2500)


@pytest.mark.parametrize(("layer", "values"), [("relu1_1", 64), ("pool1", 16), ("conv4_2", 8), ("relu5_1", 2), ("pool5", 0.5)])
def test_the_features_of_a_layer_are_counted_as_the_network_has_them(layer: str, values: float) -> None:
    """Channels over the square of how far it is scaled down."""
    assert ARCHITECTURES["vgg16"].values_per_pixel(layer) == values
