from __future__ import annotations

import random
from dataclasses import replace

import pytest

from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.parameters import Parameters
from impasto_server.workers.memory import MOST_CHANGED, OVERHEAD_BYTES, Line, MemoryModel, line_through
from tests.unit.server.fakes import spec

SQUARE = spec(width=256, height=256)
LINES = {"float32": Line(10e6, 2000.0), "tf32": Line(10e6, 2000.0), "bfloat16": Line(10e6, 1000.0)}


def fed(model: MemoryModel, pixels: int, taken: float, times: int) -> MemoryModel:
    """Return the model after so many passes in float32 that took this."""
    for _ in range(times):
        model = model.learn("float32", pixels, round(taken))
    return model


def test_what_a_job_holds_is_arithmetic() -> None:
    """Of L-BFGS mostly two canvases for each remembered pair; a texture keeps no content features."""
    model = MemoryModel()
    canvas = 256 * 256 * 3 * 4
    short, long = (
        model.demand(replace(SQUARE, parameters=Parameters(history=history)), "float32").held for history in (10, 20)
    )
    assert long - short == 20 * canvas
    adam = model.demand(replace(SQUARE, parameters=Parameters(optimizer="adam")), "float32").held
    assert 6 * canvas < adam - OVERHEAD_BYTES < 13 * canvas
    assert model.demand(replace(SQUARE, content=None), "float32").held < model.demand(SQUARE, "float32").held


def test_a_pass_has_a_fixed_part_and_grows_with_the_canvas() -> None:
    """By what was measured for the job's own arithmetic; a lighter network takes less for each pixel."""
    model = MemoryModel(LINES)
    assert model.demand(SQUARE, "bfloat16").passing == 10e6 + 65536 * 1000
    assert model.demand(spec(width=512, height=256), "float32").passing == 10e6 + 2 * 65536 * 2000
    lighter = replace(SQUARE, parameters=Parameters(network="squeezenet1_1:random-1"))
    share = ARCHITECTURES["squeezenet1_1"].memory
    assert model.demand(lighter, "float32").passing == pytest.approx(10e6 + 65536 * 2000 * share)


def test_two_measurements_give_the_line() -> None:
    """What both have in common is fixed. An impossible pair of measurements still gives a sane one through the larger."""
    line = line_through((128**2, 50e6 + 128**2 * 1500), (256**2, 50e6 + 256**2 * 1500))
    assert (line.fixed, line.per_pixel) == (pytest.approx(50e6), pytest.approx(1500))
    for small in (0.0, 300e6):
        odd = line_through((128**2, small), (256**2, 100e6))
        assert odd.fixed >= 0
        assert odd.at(256**2) == pytest.approx(100e6)
        assert odd.at(1024**2) > 8 * 100e6 - odd.fixed


def test_passes_that_take_more_raise_the_estimate_and_less_lower_it() -> None:
    """One measurement alone changes little: the median of those of about the same size counts."""
    model = MemoryModel(LINES)
    pixels = 512 * 512
    before = model.pass_bytes("float32", pixels)
    once = model.learn("float32", pixels, round(1.3 * before))
    assert once.pass_bytes("float32", pixels) == before
    raised = fed(model, pixels, 1.3 * before, 5)
    assert raised.pass_bytes("float32", pixels) == pytest.approx(1.3 * before)
    assert raised.pass_bytes("bfloat16", pixels) == model.pass_bytes("bfloat16", pixels)
    lower = fed(raised, pixels, 0.8 * before, 20)
    assert lower.pass_bytes("float32", pixels) == pytest.approx(0.8 * before)


def test_tiny_passes_and_stray_allocations_teach_nothing_wrong() -> None:
    """One job of 16 px does not make a job of 512 px need gigabytes; nor do passes that took far too much."""
    model = MemoryModel(LINES)
    before = model.pass_bytes("float32", 512 * 512)
    assert model.learn("float32", 16 * 16, 50 << 20) == model
    stray = fed(model, 512 * 512, 20 << 30, 30)
    assert stray.pass_bytes("float32", 512 * 512) == pytest.approx(before * MOST_CHANGED)


def test_large_passes_that_take_more_do_not_raise_small_ones() -> None:
    """Sizes far apart have their own measurements."""
    model = MemoryModel(LINES)
    small, large = 256 * 256, 2048 * 2048
    for _ in range(10):
        model = model.learn("float32", large, round(1.5 * LINES["float32"].at(large)))
        model = model.learn("float32", small, round(1.0 * LINES["float32"].at(small)))
    assert model.pass_bytes("float32", small) == pytest.approx(LINES["float32"].at(small))
    assert model.pass_bytes("float32", large) == pytest.approx(1.5 * LINES["float32"].at(large))


def test_other_networks_are_counted_by_what_they_take() -> None:
    """Passes of a lighter network that took more than expected raise what VGG16's is thought to take."""
    model = MemoryModel(LINES)
    pixels = 512 * 512
    for _ in range(5):
        model = model.learn("float32", pixels, round(1.25 * LINES["float32"].at(pixels * 0.6)), 0.6)
    assert model.pass_bytes("float32", pixels) == pytest.approx(1.25 * LINES["float32"].at(pixels))


def test_a_thousand_odd_jobs_leave_the_estimate_of_a_default_job_right() -> None:
    """16 px, history 100, every arithmetic and network, errors of measurement and stray allocations: within 20 %."""
    drawn = random.Random(5)
    true = {"float32": Line(30e6, 2300.0), "bfloat16": Line(30e6, 1300.0), "tf32": Line(30e6, 2300.0)}
    model = MemoryModel(LINES)
    default = replace(spec(width=512, height=512), parameters=Parameters(size_px=512))
    for number in range(1000):
        arithmetic = drawn.choice(list(true))
        side = drawn.choice([16, 64, 200, 512, 512, 768, 2048])
        name = drawn.choice(["vgg16", "vgg16", "squeezenet1_1"])
        share = ARCHITECTURES[name].memory
        taken = true[arithmetic].at(side**2 * share) * drawn.uniform(0.95, 1.05)
        if drawn.random() < 0.1:
            taken += drawn.uniform(0, 4e9)
        model = model.learn(arithmetic, side**2, round(taken), share)
        odd = replace(spec(width=side, height=side), parameters=Parameters(history=100))
        assert model.demand(odd, arithmetic).held > 200 * 12 * side**2
        if number > 100:
            for known, line in true.items():
                assert model.demand(default, known).passing == pytest.approx(line.at(512**2), rel=0.2)


@pytest.mark.parametrize(("layer", "values"), [("relu1_1", 64), ("pool1", 16), ("conv4_2", 8), ("relu5_1", 2), ("pool5", 0.5)])
def test_the_features_of_a_layer_are_counted_as_the_network_has_them(layer: str, values: float) -> None:
    """Channels over the square of how far it is scaled down."""
    assert ARCHITECTURES["vgg16"].values_per_pixel(layer) == values
