"""Every number a job can choose, the presets that choose them, and the one place where they are checked."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from impasto_engine.architectures import ARCHITECTURES, split

OptimizerName = Literal["lbfgs", "adam"]
Init = Literal["content", "noise", "style", "image"]
Pooling = Literal["average", "max"]
Precision = Literal["auto", "float32", "tf32", "bfloat16"]
Arithmetic = Literal["float32", "tf32", "bfloat16"]
"""What a network computes with, once ``auto`` is decided."""
Color = Literal["style", "luminance", "matched"]
"""Whose colours the picture has. ``style``: the style's. ``luminance``: the content's, only brightness is painted. ``matched``:
the content's, to which those of the styles are matched first (Gatys et al. 2016, "Preserving Color in Neural Artistic Style
Transfer", sections 4 and 3)."""
StyleLossName = Literal["gram", "covariance", "moments", "sliced", "histogram"]
"""Which statistics of its features make a style, see :mod:`impasto_engine.statistics`."""
GUIDABLE: tuple[StyleLossName, ...] = ("gram", "covariance", "moments")
"""Those that can be taken from a part of a picture."""
Normalization = Literal["target", "gatys", "mean"]
"""How the layers' raw errors are made comparable.

``target``: each layer's squared error is divided by the squared norm of its target, so that every layer starts near one
whatever its width, depth or filters. ``gatys``: the factors of the paper, 1/2 for content (eq. 1) and 1/4 of the mean
over the Gram matrix for style (eq. 4: 1 / (4 N^2 M^2) on sums over positions). ``mean``: mean squares, with the Gram matrix
divided by its channels too, as in Johnson's neural-style and what came after it.
"""

MIN_SIZE_PX = 16
MAX_STEPS = 10_000
MAX_HISTORY = 100
MAX_LEVELS = 8
COARSEST_PX = 256
"""Where ``levels`` is 0, no canvas is painted smaller than this first: below, nothing is gained (measured)."""
COARSE_SHARE = 0.4
"""Of a job's steps, how many are done at the coarser levels together."""
MAX_WEIGHT = 1e15
MAX_PRODUCT = 1e20
"""Of a loss's weight and a layer's: float32 holds no more once they are squared errors."""
MAX_STYLE_SCALE = 8.0
MAX_LEARNING_RATE = 100.0
ADAM_LEARNING_RATE = 0.02
"""Where Adam is asked for and no rate is given, in pixel values: the presets' rates are L-BFGS's."""

FIRST_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")

STYLE_SHARES = (0.05, 0.35, 0.46, 0.13, 0.01)
"""Of the first layers in the default style loss, each relative to its own target. Found by eye and by a judge with ImageNet's
filters (docs/QUALITY.md). relu2_1 and relu3_1 hold the strokes; relu1_1 keeps the grid of max pooling out; relu5_1 brings the
largest shapes and with a tenth of the whole it eats faces."""


def _equal(layers: tuple[str, ...]) -> Mapping[str, float]:
    return {layer: 1 / len(layers) for layer in layers}


@dataclass(frozen=True)
class Parameters:
    """How one canvas is painted. The defaults are the preset ``default``.

    Attributes:
        content_layers: Weight of each layer that the content is compared at.
        style_layers: Weight of each layer that the style is compared at.
        content_weight: Multiplies the content loss; zero leaves the content out.
        style_weight: Multiplies the style loss; zero leaves the styles out.
        total_variation_weight: Multiplies the mean squared difference of neighbouring pixels (values in [0, 1]).
        normalization: How the layers' errors are made comparable, see :data:`Normalization`.
        size_px: Longer side of the canvas; the aspect is the content's (of the first style without a content).
        steps: Optimizer steps; each costs one evaluation (one forward and one backward pass).
        optimizer: ``lbfgs`` or ``adam``.
        learning_rate: Length of an L-BFGS step in units of its own estimate (1 is the textbook's), or Adam's step in pixel
            values, where [0, 1] spans black to white.
        history: Pairs that L-BFGS remembers.
        init: What the canvas starts from.
        seed: Of the noise; the same seed gives the same start on every device.
        pooling: ``average`` or ``max``.
        levels: Sizes that the canvas is painted at, each twice the one before, the last being ``size_px``; 1 for that one only,
            0 for as many as keep the first at 256 px or more. Coarse steps are cheap and bring large structures soon.
        network: Which network, ``ARCHITECTURE[:WEIGHTS]``; empty for the one that is resident.
        style_scale: Size of the style's strokes: style pictures are seen at ``size_px`` times this.
        color: Whose colours the picture has, see :data:`Color`.
        style_loss: Which statistics make a style, see :data:`StyleLossName`.
        tolerance: The job ends when ten steps together lower the loss by less than this part of it; 0 for never.
        width_px: Exact width of the canvas, which the content is cropped to; 0 to follow ``size_px`` and the aspect.
        height_px: Exact height, likewise. With only one of both, the other follows the aspect.
        schedule: Pairs of size and steps, from the coarsest, instead of ``size_px``, ``steps`` and ``levels``.
        precision: Of the network's features; Gram sums, losses and the optimizer are always float32. ``auto`` is bfloat16
            where the device computes with it faster (:func:`~impasto_engine.devices.auto_precision`).
    """

    content_layers: Mapping[str, float] = field(default_factory=lambda: _equal(("relu4_2",)))
    style_layers: Mapping[str, float] = field(default_factory=lambda: dict(zip(FIRST_LAYERS, STYLE_SHARES, strict=True)))
    content_weight: float = 0.02
    style_weight: float = 1.0
    total_variation_weight: float = 0.05
    normalization: Normalization = "target"
    size_px: int = 512
    steps: int = 60
    optimizer: OptimizerName = "lbfgs"
    learning_rate: float = 1.0
    history: int = 40
    init: Init = "content"
    seed: int = 0
    pooling: Pooling = "max"
    levels: int = 0
    precision: Precision = "auto"
    network: str = ""
    style_scale: float = 1.0
    color: Color = "style"
    style_loss: StyleLossName = "gram"
    tolerance: float = 0.0
    width_px: int = 0
    height_px: int = 0
    schedule: tuple[tuple[int, int], ...] = ()


_CAFFE_UNIT = 57.6
"""How much stronger filters for 0-255 pixels answer than the features this engine reports (WeightsInfo.unit)."""

PRESETS: Mapping[str, Parameters] = MappingProxyType(
    {
        "default": Parameters(),
        # The student's report: white noise, L-BFGS at learning rate 1 for 20 epochs of torch's 20 iterations, the layers'
        # errors evened out by hand: 1e4 for the first, 1e1 for the others, alpha 1e-3, beta 1e3.
        "seed": Parameters(
            style_layers={layer: 1e4 if layer == "relu1_1" else 1e1 for layer in FIRST_LAYERS},
            content_weight=1e-3,
            style_weight=1e3,
            total_variation_weight=0.0,
            normalization="gatys",
            size_px=256,
            steps=400,
            init="noise",
            pooling="max",
            levels=1,
        ),
        # Gatys et al. (CVPR 2016), section 3: alpha / beta = 1e-3, conv4_2, conv1_1 to conv5_1 at 1/5 each, average
        # pooling, white noise. The weights are the paper's in the units of its filters, so with them its losses come out.
        "gatys": Parameters(
            content_layers=_equal(("conv4_2",)),
            style_layers=_equal(("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")),
            content_weight=1.0 * _CAFFE_UNIT**2,
            style_weight=1e3 * _CAFFE_UNIT**4,
            total_variation_weight=0.0,
            normalization="gatys",
            steps=500,
            init="noise",
            pooling="average",
            levels=1,
        ),
        # Johnson's neural-style and its port to PyTorch: mean squares, content 5, style 100 at each layer, max pooling, faint
        # noise, history 100. Their total variation is a sum of absolute values and left out, as in their own scripts for
        # large pictures. The weights are theirs in the units of Caffe's filters.
        "neural-style": Parameters(
            style_layers=dict.fromkeys(FIRST_LAYERS, 1.0),
            content_weight=5 * _CAFFE_UNIT**2,
            style_weight=100 * _CAFFE_UNIT**4,
            total_variation_weight=0.0,
            normalization="mean",
            steps=1000,
            history=100,
            init="noise",
            pooling="max",
            levels=1,
        ),
        # A first look: a quarter of the pixels, a third of the steps, and no more than is worth waiting for.
        "preview": Parameters(size_px=256, steps=30, history=20, tolerance=0.01),
    }
)
"""Named sets of parameters: plain data."""


FOLLOWING = ("default", "preview")
"""Presets whose numbers follow the filters; the others are their authors', whatever the filters."""

TUNED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The default's numbers were found with ImageNet's filters (docs/QUALITY.md). These answer otherwise.
        "builtin": MappingProxyType(
            {
                "content_weight": 0.05,
                "total_variation_weight": 0.3,
                "pooling": "average",
                "style_layers": _equal(FIRST_LAYERS),
            }
        ),
    }
)
"""Numbers of the presets that follow the filters, by the name of filters that want others than ImageNet's."""

_WEIGHTS = ("content_weight", "style_weight", "total_variation_weight", "style_layers")


def _weights_of(preset: str) -> Mapping[str, Any]:
    return MappingProxyType({name: getattr(PRESETS[preset], name) for name in _WEIGHTS})


NORMALIZED: Mapping[Normalization, Mapping[str, Any]] = MappingProxyType(
    {"target": _weights_of("default"), "gatys": _weights_of("gatys"), "mean": _weights_of("neural-style")}
)
"""Weights that make sense with each normalization: where a job chooses a normalization other than its preset's, those weights
that it does not choose too are of this table, since losses of one normalization are of another size than those of another."""


@dataclass(frozen=True)
class Violation:
    """One thing wrong with the parameters: which field, and what it should have been."""

    field: str
    description: str


def violations(
    parameters: Parameters,
    layers: Collection[str],
    max_size_px: int,
    *,
    has_content: bool,
    styles: int,
    has_image: bool = False,
    has_regions: bool = False,
    min_size_px: int = MIN_SIZE_PX,
) -> Iterator[Violation]:
    """Yield everything wrong with a job's parameters, not only the first.

    Args:
        parameters: What to check.
        layers: Names of the network's layers.
        max_size_px: Largest canvas side allowed here.
        has_content: Whether the job has a content image.
        styles: How many style images the job has.
        has_image: Whether the job has an image to start from.
        has_regions: Whether masks say where a style is taken from or goes.
        min_size_px: Smallest canvas side of the network.
    """
    for name in ("content_weight", "style_weight", "total_variation_weight"):
        yield from _weight(name, getattr(parameters, name))
    for name in ("content_layers", "style_layers"):
        for layer, weight in getattr(parameters, name).items():
            if layer not in layers:
                yield Violation(name, f"no layer {layer!r}; the network has {', '.join(layers)}")
            yield from _weight(f"{name}[{layer}].weight", weight)
            whole = getattr(parameters, name.replace("layers", "weight")) * weight
            if whole > MAX_PRODUCT or 0 < whole < 1 / MAX_PRODUCT:
                low, high = 1 / MAX_PRODUCT, MAX_PRODUCT
                text = f"times {name.replace('layers', 'weight')} must be from {low:g} to {high:g}, is {whole:g}"
                yield Violation(f"{name}[{layer}].weight", text)
    yield from _numbers(parameters, min_size_px, max_size_px)
    if has_regions and parameters.style_loss not in GUIDABLE:
        others = f"{', '.join(GUIDABLE[:-1])} or {GUIDABLE[-1]}"
        text = f"{parameters.style_loss} cannot be taken from a part of a picture; use {others} with masks"
        yield Violation("style_loss", text)
    if parameters.color != "style" and not (has_content and styles):
        yield Violation("color", f"{parameters.color} takes the content's colours: it needs a content image and a style")
    yield from _start(parameters.init, has_content=has_content, styles=styles, has_image=has_image)
    reads_content = has_content and _positive(parameters.content_weight, parameters.content_layers)
    reads_style = styles > 0 and _positive(parameters.style_weight, parameters.style_layers)
    if not reads_content and not reads_style:
        yield Violation("style_weight", "nothing to optimise: give an image whose weight and layer weights are above zero")


def _numbers(parameters: Parameters, min_size_px: int, max_size_px: int) -> Iterator[Violation]:
    if not parameters.schedule:
        yield from _range("size_px", parameters.size_px, min_size_px, max_size_px)
        yield from _range("steps", parameters.steps, 1, MAX_STEPS)
    for name in ("width_px", "height_px"):
        if getattr(parameters, name):
            yield from _range(name, getattr(parameters, name), min_size_px, max_size_px)
    yield from _schedule(parameters.schedule, min_size_px, max_size_px)
    whole = sum(max(0, steps) for _, steps in parameters.schedule)
    if whole > MAX_STEPS:
        yield Violation("schedule", f"has {whole} steps together; at most {MAX_STEPS}")
    yield from _range("history", parameters.history, 1, MAX_HISTORY)
    yield from _range("seed", parameters.seed, 0, 2**63 - 1)
    yield from _range("levels", parameters.levels, 0, MAX_LEVELS)
    if not (math.isfinite(parameters.learning_rate) and 0 < parameters.learning_rate <= MAX_LEARNING_RATE):
        yield Violation("learning_rate", f"must be above 0 and at most {MAX_LEARNING_RATE:g}, got {parameters.learning_rate:g}")
    if not 0 <= parameters.tolerance < 1:
        yield Violation("tolerance", f"must be from 0 to below 1, got {parameters.tolerance:g}")
    if not 1 / MAX_STYLE_SCALE <= parameters.style_scale <= MAX_STYLE_SCALE:
        low, high = 1 / MAX_STYLE_SCALE, MAX_STYLE_SCALE
        yield Violation("style_scale", f"must be from {low:g} to {high:g}, got {parameters.style_scale:g}")


def _start(init: Init, *, has_content: bool, styles: int, has_image: bool) -> Iterator[Violation]:
    if init == "content" and not has_content:
        yield Violation("init", "cannot start from the content: the job has none; use noise")
    if init == "style" and not styles:
        yield Violation("init", "cannot start from the style: the job has none; use noise")
    if init == "image" and not has_image:
        yield Violation("init", "cannot start from an image: give init_image too")
    if has_image and init != "image":
        yield Violation("init", "an init_image is given, but the start is another; leave init away or say image")


def _schedule(schedule: tuple[tuple[int, int], ...], low: int, high: int) -> Iterator[Violation]:
    if len(schedule) > MAX_LEVELS:
        yield Violation("schedule", f"at most {MAX_LEVELS} sizes, got {len(schedule)}")
    for index, (size, steps) in enumerate(schedule):
        yield from _range(f"schedule[{index}].size_px", size, low, high)
        yield from _range(f"schedule[{index}].steps", steps, 1, MAX_STEPS)
        if index and size <= schedule[index - 1][0]:
            yield Violation(f"schedule[{index}].size_px", f"must be larger than the size before, got {size}")


def settled(parameters: Parameters) -> Parameters:
    """Return the parameters with the sizes and steps that follow from others: from the schedule, or from an exact size."""
    if parameters.schedule:
        return replace(parameters, size_px=parameters.schedule[-1][0], steps=sum(steps for _, steps in parameters.schedule))
    if parameters.width_px and parameters.height_px:
        return replace(parameters, size_px=max(parameters.width_px, parameters.height_px))
    return parameters


def fitted(parameters: Parameters, network: str, preset: str, given: Collection[str]) -> Parameters:
    """Return the parameters with what follows from the network and the normalization, where nobody chose it.

    Args:
        parameters: The preset's, with what the caller chose in their place.
        network: Full name of the network, ``ARCHITECTURE:WEIGHTS``.
        preset: Name of the preset.
        given: Names of the fields that the caller chose; they stay as they are.
    """
    name, weights = split(network)
    architecture = ARCHITECTURES[name]
    changes = dict(TUNED.get(weights, {})) if preset in FOLLOWING else {}
    if parameters.normalization != PRESETS[preset].normalization:
        changes |= NORMALIZED[parameters.normalization]
    parameters = replace(parameters, **{field_: value for field_, value in changes.items() if field_ not in given})
    names = architecture.layer_names
    if "content_layers" not in given and not set(parameters.content_layers) <= set(names):
        parameters = replace(parameters, content_layers={architecture.content_layer: sum(parameters.content_layers.values())})
    if "style_layers" not in given and not set(parameters.style_layers) <= set(names):
        each = sum(parameters.style_layers.values()) / len(architecture.first_layers)
        parameters = replace(parameters, style_layers=dict.fromkeys(architecture.first_layers, each))
    return parameters


def level_sizes(parameters: Parameters) -> tuple[int, ...]:
    """Return the longer side of the canvas at each level, from the coarsest; none is below :data:`MIN_SIZE_PX`."""
    if parameters.schedule:
        return tuple(size for size, _ in parameters.schedule)
    sizes = [parameters.size_px]
    smallest = ARCHITECTURES[split(parameters.network)[0]].min_side_px
    coarsest = COARSEST_PX if parameters.levels == 0 else smallest
    count = parameters.levels or MAX_LEVELS
    while len(sizes) < min(count, parameters.steps) and sizes[0] // 2 >= coarsest:
        sizes.insert(0, sizes[0] // 2)
    return tuple(sizes)


def level_steps(parameters: Parameters) -> tuple[int, ...]:
    """Return how many of the steps are done at each level: the coarser ones share two fifths equally."""
    if parameters.schedule:
        return tuple(steps for _, steps in parameters.schedule)
    coarse = len(level_sizes(parameters)) - 1
    if not coarse:
        return (parameters.steps,)
    each = max(1, round(parameters.steps * COARSE_SHARE / coarse))
    return (*(each for _ in range(coarse)), parameters.steps - each * coarse)


def without_content(parameters: Parameters) -> Parameters:
    """Return the parameters of a texture: a job without a content image starts from noise."""
    return replace(parameters, init="noise")


def _positive(weight: float, layers: Mapping[str, float]) -> bool:
    return weight > 0 and any(layer_weight > 0 for layer_weight in layers.values())


def _weight(name: str, value: float) -> Iterator[Violation]:
    if not (math.isfinite(value) and 0 <= value <= MAX_WEIGHT):
        yield Violation(name, f"must be a finite number from 0 to {MAX_WEIGHT:g}, got {value:g}")


def _range(name: str, value: int, low: int, high: int) -> Iterator[Violation]:
    if not low <= value <= high:
        yield Violation(name, f"must be from {low} to {high}, got {value}")
