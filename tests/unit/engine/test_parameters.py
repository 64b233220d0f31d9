from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest

from impasto.requests import HOW_FAR, QUALITIES
from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.parameters import PRESETS, Parameters, fitted, level_sizes, level_steps, violations

LAYERS = ARCHITECTURES["vgg16"].layer_names


def wrong(parameters: Parameters, *, has_content: bool = True, styles: int = 1) -> dict[str, str]:
    found = violations(parameters, LAYERS, 2048, has_content=has_content, styles=styles)
    return {violation.field: violation.description for violation in found}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_plain_data(name: str) -> None:
    """Every preset passes its own validation and can be sent to a worker."""
    assert wrong(PRESETS[name]) == {}
    assert pickle.loads(pickle.dumps(PRESETS[name])) == PRESETS[name]  # noqa: S301


def test_the_seed_preset_is_the_reports() -> None:
    """White noise, L-BFGS, learning rate 1, alpha 1e-3, beta 1e3, factors 1e4 and 1e1, 256 px."""
    seed = PRESETS["seed"]
    assert (seed.init, seed.optimizer, seed.learning_rate, seed.size_px) == ("noise", "lbfgs", 1.0, 256)
    assert (seed.content_weight, seed.style_weight) == (1e-3, 1e3)
    assert list(seed.style_layers.values()) == [1e4, 1e1, 1e1, 1e1, 1e1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 10_001),
        ("size_px", 15),
        ("size_px", 2049),
        ("history", 0),
        ("history", 101),
        ("seed", -1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("content_weight", -1.0),
        ("style_weight", math.nan),
        ("total_variation_weight", math.inf),
        ("content_layers", {"relu9_1": 1.0}),
        ("style_layers", {"relu1_1": 1.0, "nonsense": 1.0}),
    ],
)
def test_each_field_is_named_when_it_is_wrong(field: str, value: object) -> None:
    """One invalid field gives one violation with the field's name."""
    assert list(wrong(replace(Parameters(), **{field: value}))) == [field]


def test_a_wrong_layer_weight_names_the_layer() -> None:
    """A NaN weight at one of several layers."""
    assert list(wrong(replace(Parameters(), style_layers={"relu1_1": math.nan, "relu2_1": 1.0}))) == [
        "style_layers[relu1_1].weight"
    ]


def test_all_violations_are_told_at_once() -> None:
    """Not only the first violation."""
    assert set(wrong(replace(Parameters(), steps=0, size_px=1, seed=-1))) == {"steps", "size_px", "seed"}


@pytest.mark.parametrize(
    ("parameters", "has_content", "styles"),
    [
        (Parameters(content_weight=0.0, style_weight=0.0), True, 1),
        (Parameters(content_weight=0.0), True, 0),
        (Parameters(style_layers={}, init="noise"), False, 1),
        (Parameters(content_weight=0.0, style_layers={"relu1_1": 0.0}), True, 1),
    ],
)
def test_a_job_with_nothing_to_optimize_is_refused(parameters: Parameters, has_content: bool, styles: int) -> None:
    """Zero weights or missing pictures can leave nothing to optimize."""
    assert {"style_weight", "style_layers"} & wrong(parameters, has_content=has_content, styles=styles).keys()


@pytest.mark.parametrize("layers", [{}, {"relu1_1": 0.0, "relu2_1": 0.0}])
def test_styles_that_no_layer_weighs_are_refused(layers: dict[str, float]) -> None:
    """A style without any layer weight is an error. A style_weight of zero disables styles explicitly."""
    parameters = Parameters(style_layers=layers)
    assert set(wrong(parameters)) == {"style_layers"}
    assert wrong(replace(parameters, style_weight=0.0)) == {}


def test_a_texture_cannot_start_from_its_content() -> None:
    """A texture has no content."""
    assert list(wrong(Parameters(), has_content=False)) == ["init"]


@pytest.mark.parametrize(
    ("size_px", "levels", "steps", "sizes", "shares"),
    [
        (256, 0, 100, (256,), (100,)),
        (511, 0, 100, (511,), (100,)),
        (512, 0, 100, (256, 512), (60, 40)),
        (2048, 0, 100, (256, 512, 1024, 2048), (20, 20, 20, 40)),
        (512, 1, 100, (512,), (100,)),
        (100, 3, 10, (25, 50, 100), (3, 3, 4)),
        (40, 8, 10, (20, 40), (6, 4)),
        (512, 0, 1, (512,), (1,)),
        (512, 4, 2, (256, 512), (1, 1)),
    ],
)
def test_a_canvas_is_painted_from_coarse_to_fine(
    size_px: int, levels: int, steps: int, sizes: tuple[int, ...], shares: tuple[int, ...]
) -> None:
    """All steps are distributed, every level has at least one, and the last size is the requested one."""
    parameters = Parameters(size_px=size_px, levels=levels, steps=steps)
    assert level_sizes(parameters) == sizes
    assert level_steps(parameters) == shares


def test_presets_follow_the_filters_and_the_authors_do_not() -> None:
    """The default has its own values for the built-in filters; fields that were set are kept; authors' presets never change."""
    default = PRESETS["default"]
    assert fitted(default, "vgg16:imagenet-wheel", "default", ()) == default
    built_in = fitted(default, "vgg16:builtin", "default", ())
    assert (built_in.pooling, built_in.style_layers) != (default.pooling, default.style_layers)
    chosen = replace(default, pooling="max", content_weight=7.0)
    kept = fitted(chosen, "vgg16:builtin", "default", {"pooling", "content_weight"})
    assert (kept.pooling, kept.content_weight, kept.style_layers) == ("max", 7.0, built_in.style_layers)
    for name in ("seed", "gatys", "neural-style"):
        assert fitted(PRESETS[name], "vgg16:builtin", name, ()) == PRESETS[name]


def test_a_normalization_alone_brings_the_weights_that_go_with_it() -> None:
    """Those of the preset with that normalization, unless set explicitly; the preset's own normalization changes nothing."""
    for normalization, source in (("mean", "neural-style"), ("gatys", "gatys")):
        chosen = replace(PRESETS["default"], normalization=normalization)
        for network in ("vgg16:imagenet", "vgg16:builtin"):
            made = fitted(chosen, network, "default", {"normalization"})
            assert (made.content_weight, made.style_weight) == (PRESETS[source].content_weight, PRESETS[source].style_weight)
            assert made.style_layers == PRESETS[source].style_layers
        assert fitted(chosen, "vgg16:imagenet", "default", {"normalization", "content_weight"}).content_weight == 0.02
    back = fitted(replace(PRESETS["gatys"], normalization="target"), "vgg16:imagenet", "gatys", {"normalization"})
    assert (back.content_weight, back.style_layers) == (PRESETS["default"].content_weight, PRESETS["default"].style_layers)


def test_the_clients_qualities_differ_in_how_far_the_painting_goes_only() -> None:
    """Redo and profiles change these parameters and no others."""
    for name in QUALITIES:
        changed = {key for key, value in vars(PRESETS[name]).items() if value != getattr(PRESETS["good"], key)}
        assert changed <= HOW_FAR, name
        assert changed or name == "good"
