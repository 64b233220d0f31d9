"""The parameters of a job, the presets, and their validation."""

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
"""The arithmetic of a network after ``auto`` has been resolved."""
Color = Literal["style", "luminance", "matched"]
"""Source of the picture's colours. ``style``: the style's. ``luminance``: the content's; only brightness is painted.
``matched``: the content's; the styles' colours are matched to them first (Gatys et al. 2016, "Preserving Color in Neural
Artistic Style Transfer", sections 4 and 3)."""
StyleLossName = Literal["gram", "covariance", "moments", "sliced", "histogram"]
"""The feature statistics that define a style, see :mod:`impasto_engine.statistics`."""
GUIDABLE: tuple[StyleLossName, ...] = ("gram", "covariance", "moments")
"""Statistics that can be restricted to a part of a picture."""
Normalization = Literal["target", "gatys", "mean"]
"""How the layers' raw errors are normalized.

``target``: each layer's squared error is divided by the squared norm of its target, so that every layer starts near one
whatever its width, depth or filters. ``gatys``: the factors of the paper, 1/2 for content (eq. 1) and 1/4 of the mean
over the Gram matrix for style (eq. 4: 1 / (4 N^2 M^2) on sums over positions). ``mean``: mean squared errors, with the Gram
matrix also divided by its number of channels, as in Johnson's neural-style and its successors.
"""

MIN_SIZE_PX = 16
MAX_STEPS = 10_000
MAX_HISTORY = 100
MAX_LEVELS = 8
COARSEST_PX = 256
"""Smallest first level if ``levels`` is 0. Smaller levels bring no improvement (measured)."""
COARSE_SHARE = 0.6
"""Fraction of a job's steps that is spent at the coarser levels in total. They cost a quarter each, and place the large shapes
(docs/lab/performance.md)."""
MAX_WEIGHT = 1e15
MAX_PRODUCT = 1e20
"""Limit of the product of a loss weight and a layer weight. Larger products overflow float32 with squared errors."""
MAX_STYLE_SCALE = 8.0
MAX_LEARNING_RATE = 100.0
ADAM_LEARNING_RATE = 0.02
"""Adam's default learning rate, in pixel values. The learning rates of the presets apply to L-BFGS."""

FIRST_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")

STYLE_SHARES = (0.05, 0.35, 0.46, 0.13, 0.01)
"""Weights of the first layers in the default style loss, each relative to its own target. Tuned by eye and with a judge
network, for ImageNet's filters (docs/lab/quality.md). relu2_1 and relu3_1 capture the strokes; relu1_1 suppresses the grid
artefacts of max pooling; relu5_1 adds the largest shapes, but a tenth of the total weight there destroys faces."""


def _equal(layers: tuple[str, ...]) -> Mapping[str, float]:
    return {layer: 1 / len(layers) for layer in layers}


@dataclass(frozen=True)
class Parameters:
    """How one canvas is painted. The default values are the preset ``default``.

    Attributes:
        content_layers: Weights of the content layers.
        style_layers: Weights of the style layers.
        content_weight: Multiplies the content loss; zero disables it.
        style_weight: Multiplies the style loss; zero disables it.
        total_variation_weight: Multiplies the mean squared difference of neighbouring pixels (values in [0, 1]).
        normalization: How the layers' errors are normalized, see :data:`Normalization`.
        size_px: Longer side of the canvas. The aspect ratio is the content's, or the first style's without a content.
        steps: Optimizer steps; each costs one evaluation (one forward and one backward pass).
        optimizer: ``lbfgs`` or ``adam``.
        learning_rate: Factor on the quasi-Newton step of L-BFGS (1 is the standard choice), or Adam's step size in pixel
            values, where [0, 1] spans black to white.
        history: Number of pairs that L-BFGS keeps.
        init: How the canvas is initialized.
        seed: Seed of the noise. The same seed gives the same initial canvas on every device.
        pooling: ``average`` or ``max``.
        levels: Number of sizes, each twice the previous one, the last being ``size_px``. 1 uses only ``size_px``; 0 uses as
            many as keep the first at 256 px or more. Coarse steps are cheap and form large structures early.
        network: Network name, ``ARCHITECTURE[:WEIGHTS]``; empty for the resident one.
        style_scale: Scale of the style's strokes. Style pictures are resized to ``size_px`` times this.
        color: Source of the picture's colours, see :data:`Color`.
        style_loss: Feature statistics that define the style, see :data:`StyleLossName`.
        tolerance: The job stops when ten steps together lower the loss by less than this fraction of it; 0 disables the test. A
            job whose optimizer finds no improvement (``optimizers.stalled``) ends whatever this is.
        width_px: Exact width of the canvas, to which the content is cropped; 0 to follow ``size_px`` and the aspect ratio.
        height_px: Exact height, likewise. If only one of the two is set, the other follows the aspect ratio.
        schedule: Pairs of size and steps, coarsest first. Replaces ``size_px``, ``steps`` and ``levels``.
        precision: Precision of the network's features. Gram sums, losses and the optimizer are always float32. ``auto`` is
            bfloat16 on devices that compute faster with it (:func:`~impasto_engine.devices.auto_precision`).
    """

    content_layers: Mapping[str, float] = field(default_factory=lambda: _equal(("relu4_2",)))
    style_layers: Mapping[str, float] = field(default_factory=lambda: dict(zip(FIRST_LAYERS, STYLE_SHARES, strict=True)))
    content_weight: float = 0.02
    style_weight: float = 1.0
    total_variation_weight: float = 0.05
    normalization: Normalization = "target"
    size_px: int = 512
    steps: int = 100
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
"""Ratio of the responses of filters for 0-255 pixels to the features this engine reports (WeightsInfo.unit)."""

PRESETS: Mapping[str, Parameters] = MappingProxyType(
    {
        "default": Parameters(),
        # The student's report: white noise, L-BFGS at learning rate 1 for 20 epochs of torch's 20 iterations, hand-tuned layer
        # weights of 1e4 for the first and 1e1 for the others, alpha 1e-3, beta 1e3.
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
        # pooling, white noise. The weights are the paper's, in the units of its filters, and reproduce its losses.
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
        # Johnson's neural-style and its port to PyTorch: mean squared errors, content 5, style 100 at each layer, max pooling,
        # faint noise, history 100. Their total variation is a sum of absolute values. It is omitted here, as in their own
        # scripts for large pictures. The weights are theirs, in the units of Caffe's filters.
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
        # The default with fewer or more steps; docs/lab/performance.md has their seconds and the judge's distances.
        "draft": Parameters(steps=30),
        "good": Parameters(),
        "best": Parameters(steps=160, tolerance=0.002),
        # A quick preview: a quarter of the pixels, few steps, and an early stop on convergence.
        "preview": Parameters(size_px=256, steps=30, history=20, tolerance=0.01),
    }
)
"""Named parameter sets, as plain data."""


FOLLOWING = ("default", "draft", "good", "best", "preview")
"""Presets whose parameters depend on the filters. The others keep their authors' values with any filters."""

TUNED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The default was tuned for ImageNet's filters (docs/lab/quality.md). The built-in filters respond differently.
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
"""Parameters that replace those of the :data:`FOLLOWING` presets, by the name of the filters that need them."""

_WEIGHTS = ("content_weight", "style_weight", "total_variation_weight", "style_layers")


def _weights_of(preset: str) -> Mapping[str, Any]:
    return MappingProxyType({name: getattr(PRESETS[preset], name) for name in _WEIGHTS})


NORMALIZED: Mapping[Normalization, Mapping[str, Any]] = MappingProxyType(
    {"target": _weights_of("default"), "gatys": _weights_of("gatys"), "mean": _weights_of("neural-style")}
)
"""Default weights for each normalization. They replace the preset's weights that a job does not set itself if the job chooses
another normalization than its preset, because the magnitude of the losses depends on the normalization."""


@dataclass(frozen=True)
class Violation:
    """One invalid parameter: the field and the accepted values."""

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
    """Yield all violations in a job's parameters, not only the first.

    Args:
        parameters: The parameters to check.
        layers: Names of the network's layers.
        max_size_px: Largest canvas side that is allowed.
        has_content: Whether the job has a content image.
        styles: Number of style images of the job.
        has_image: Whether the job has an initial image.
        has_regions: Whether any style has a mask or a region.
        min_size_px: Smallest canvas side that the network supports.
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
                text = f"times {name.replace('layers', 'weight')} must be from {low:g} to {high:g}, got {whole:g}"
                yield Violation(f"{name}[{layer}].weight", text)
    yield from _numbers(parameters, min_size_px, max_size_px)
    if has_regions and parameters.style_loss not in GUIDABLE:
        others = f"{', '.join(GUIDABLE[:-1])} or {GUIDABLE[-1]}"
        text = f"{parameters.style_loss} does not support masks or regions; use {others} with them"
        yield Violation("style_loss", text)
    if parameters.color != "style" and not (has_content and styles):
        yield Violation("color", f"{parameters.color} uses the content's colours: it needs a content image and a style")
    yield from _start(parameters.init, has_content=has_content, styles=styles, has_image=has_image)
    reads_content = has_content and _positive(parameters.content_weight, parameters.content_layers)
    reads_style = styles > 0 and _positive(parameters.style_weight, parameters.style_layers)
    if styles and parameters.style_weight > 0 and all(weight == 0 for weight in parameters.style_layers.values()):
        text = "no layer has a weight above zero, so the styles would be ignored; omit them, or set style_weight to 0"
        yield Violation("style_layers", text)
    elif not reads_content and not reads_style:
        yield Violation("style_weight", "nothing to optimize: provide an image whose weight and layer weights are above zero")


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
        yield Violation("schedule", f"has {whole} steps in total; at most {MAX_STEPS} are allowed")
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
        yield Violation("init", "cannot start from an image: init_image is missing")
    if has_image and init != "image":
        yield Violation("init", f"init_image is set, but init is {init}; omit init or set it to image")


def _schedule(schedule: tuple[tuple[int, int], ...], low: int, high: int) -> Iterator[Violation]:
    if len(schedule) > MAX_LEVELS:
        yield Violation("schedule", f"at most {MAX_LEVELS} sizes are allowed, got {len(schedule)}")
    for index, (size, steps) in enumerate(schedule):
        yield from _range(f"schedule[{index}].size_px", size, low, high)
        yield from _range(f"schedule[{index}].steps", steps, 1, MAX_STEPS)
        if index and size <= schedule[index - 1][0]:
            yield Violation(f"schedule[{index}].size_px", f"must be larger than the previous size, got {size}")


def settled(parameters: Parameters) -> Parameters:
    """Return the parameters with derived sizes and steps filled in, from the schedule or from an exact size."""
    if parameters.schedule:
        return replace(parameters, size_px=parameters.schedule[-1][0], steps=sum(steps for _, steps in parameters.schedule))
    if parameters.width_px and parameters.height_px:
        return replace(parameters, size_px=max(parameters.width_px, parameters.height_px))
    return parameters


def fitted(parameters: Parameters, network: str, preset: str, given: Collection[str]) -> Parameters:
    """Return the parameters with the defaults that depend on the network and the normalization.

    Args:
        parameters: The preset's parameters, with the caller's values in place.
        network: Full name of the network, ``ARCHITECTURE:WEIGHTS``.
        preset: Name of the preset.
        given: Names of the fields that the caller set; they are kept.
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
    """Return the longer side of the canvas at each level, coarsest first; none is below :data:`MIN_SIZE_PX`."""
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
    """Return the number of steps at each level. The coarser levels share three fifths of the steps equally."""
    if parameters.schedule:
        return tuple(steps for _, steps in parameters.schedule)
    coarse = len(level_sizes(parameters)) - 1
    if not coarse:
        return (parameters.steps,)
    each = max(1, round(parameters.steps * COARSE_SHARE / coarse))
    return (*(each for _ in range(coarse)), parameters.steps - each * coarse)


def without_content(parameters: Parameters) -> Parameters:
    """Return the parameters for a texture: without a content image, the canvas starts from noise."""
    return replace(parameters, init="noise")


def _positive(weight: float, layers: Mapping[str, float]) -> bool:
    return weight > 0 and any(layer_weight > 0 for layer_weight in layers.values())


def _weight(name: str, value: float) -> Iterator[Violation]:
    if not (math.isfinite(value) and 0 <= value <= MAX_WEIGHT):
        yield Violation(name, f"must be a finite number from 0 to {MAX_WEIGHT:g}, got {value:g}")


def _range(name: str, value: int, low: int, high: int) -> Iterator[Violation]:
    if not low <= value <= high:
        yield Violation(name, f"must be from {low} to {high}, got {value}")
