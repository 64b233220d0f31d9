"""Builds the objective and the first canvas of a job from its pictures and parameters, and runs whole jobs."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from impasto_engine import colors, reference, samples
from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.batch import BatchKey, RunningBatch
from impasto_engine.devices import resolve_precision
from impasto_engine.networks import Network
from impasto_engine.objective import (
    Frame,
    Objective,
    StyleTarget,
    content_targets,
    framed,
    style_targets,
    to_canvas,
    to_pixels,
)
from impasto_engine.parameters import Parameters, Pooling, level_sizes, level_steps
from impasto_engine.samples import Entrant, SampleState, Step
from impasto_engine.statistics import statistic

NOISE_MEAN, NOISE_DEVIATION = 0.5, 0.15
Pixels = UInt8[Tensor, "height width 3"]
Mask = UInt8[Tensor, "height width"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Style:
    """One style picture and its weight in the mix.

    Attributes:
        pixels: 8-bit sRGB, at the scale that its strokes should have on the canvas.
        weight: Weight relative to the other styles.
        digest: Cache key of the pixels for style statistics; empty to bypass the cache.
        mask: The part of the picture used as the style, of the picture's size: 255 is inside, 0 outside; None for all of it.
        region: Where on the canvas the style applies, of the canvas's size; None for the whole painted area.
    """

    pixels: UInt8[Tensor, "_ _ 3"]
    weight: float = 1.0
    digest: str = ""
    mask: UInt8[Tensor, "_ _"] | None = None
    region: UInt8[Tensor, "_ _"] | None = None


@dataclass(frozen=True)
class Job:
    """One picture to paint: input pictures at canvas size, and parameters.

    Attributes:
        height: Canvas height in pixels.
        width: Canvas width in pixels.
        content: 8-bit sRGB of exactly the canvas size, or None for a texture.
        styles: Any number of styles; none for a content reconstruction.
        parameters: The parameters of the optimization.
        mask: The part of the content to paint, of the canvas's size: 255 is painted, 0 stays unchanged; None for all of it.
        init_image: Initial canvas, of the canvas's size; used if ``parameters.init`` is ``image``.
    """

    height: int
    width: int
    content: Pixels | None
    styles: Sequence[Style]
    parameters: Parameters
    mask: Mask | None = None
    init_image: Pixels | None = None

    def key(self, device: torch.device) -> BatchKey:
        """Return the key of the running batches on a device that can take the job."""
        arithmetic = resolve_precision(self.parameters.precision, device)
        return BatchKey(self.height, self.width, self.parameters.pooling, arithmetic)


class StyleCache:
    """LRU cache of style statistics, so that a popular style passes through the network only once.

    Args:
        capacity: Number of styles to keep; each takes 2.4 MB with the default layers.
    """

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._hits = self._misses = 0
        self._entries: OrderedDict[tuple[object, ...], dict[str, Tensor]] = OrderedDict()
        self._usual: dict[tuple[str, ...], float] = {}

    def take_counts(self) -> tuple[int, int]:
        """Return the numbers of cache hits and misses since the last call, and reset them."""
        counts = self._hits, self._misses
        self._hits = self._misses = 0
        return counts

    def statistics(self, network: Network, style: Style, parameters: Parameters) -> dict[str, Tensor]:
        """Return the style's statistics at all style layers with a positive weight."""
        layers, name = _style_layers(parameters), parameters.style_loss
        key = (network.weights.sha256, style.digest, style.pixels.shape, layers, parameters.pooling, name)
        if style.digest and key in self._entries:
            self._entries.move_to_end(key)
            self._hits += 1
            return self._entries[key]
        self._misses += 1
        found = _statistics(network, style, parameters)
        if style.digest:
            self._entries[key] = found
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        return found

    def usual(self, network: Network, parameters: Parameters) -> dict[str, float]:
        """Return the mean square of a natural picture's statistics at the same layers."""
        kind = (network.weights.sha256, parameters.pooling, parameters.style_loss)
        wanted = _style_layers(parameters)
        if any((*kind, layer) not in self._usual for layer in wanted):
            found = reference.powers(_statistics(network, Style(reference.picture()), parameters))
            self._usual.update({(*kind, layer): power for layer, power in found.items()})
        return {layer: self._usual[*kind, layer] for layer in wanted}

    def usual_features(self, network: Network, layers: tuple[str, ...], pooling: Pooling) -> dict[str, float]:
        """Return the mean square of a natural picture's features at the given layers."""
        kind = (network.weights.sha256, pooling, "features")
        if any((*kind, layer) not in self._usual for layer in layers):
            seen = network.features(to_canvas(reference.picture(), network.device), layers, pooling)
            self._usual.update({(*kind, layer): power for layer, power in reference.powers(seen).items()})
        return {layer: self._usual[*kind, layer] for layer in layers}


def _style_layers(parameters: Parameters) -> tuple[str, ...]:
    return tuple(sorted(layer for layer, weight in parameters.style_layers.items() if weight > 0))


def _statistics(network: Network, style: Style, parameters: Parameters) -> dict[str, Tensor]:
    seen = network.features(to_canvas(style.pixels, network.device), _style_layers(parameters), parameters.pooling)
    found = {}
    for layer, features in seen.items():
        guide = None if style.mask is None else _guide(style.mask, features)[None]
        found[layer] = statistic(parameters.style_loss, features, guide)[0]
    return found


def objective(network: Network, job: Job, cache: StyleCache | None = None) -> Objective:
    """Return the objective of a job. Targets are computed in float32 whatever the job's precision."""
    parameters = job.parameters
    cache = StyleCache(0) if cache is None else cache
    content = {}
    if job.content is not None and parameters.content_weight > 0:
        weights = {layer: weight for layer, weight in parameters.content_layers.items() if weight > 0}
        seen = network.features(_seen_content(job, network.device), tuple(weights), parameters.pooling)
        usual = {}
        if parameters.normalization == "target":
            usual = cache.usual_features(network, tuple(weights), parameters.pooling)
        content = content_targets(seen, weights, parameters.content_weight, parameters.normalization, usual)
    style = _style_regions(network, job, cache) if job.styles and parameters.style_weight > 0 else ()
    return Objective(content, style, parameters.total_variation_weight, _frame(job, network.device))


def _style_regions(network: Network, job: Job, cache: StyleCache) -> tuple[dict[str, StyleTarget], ...]:
    """Return the style targets of each region of the canvas. Styles of the same region are folded into one target."""
    parameters = job.parameters
    weights = {layer: weight for layer, weight in parameters.style_layers.items() if weight > 0}
    together: dict[bytes | None, list[Style]] = {}
    masks: dict[bytes | None, Tensor | None] = {}
    for style in job.styles:
        region = job.mask if style.region is None else style.region
        name = None if region is None else region.numpy().tobytes()
        together.setdefault(name, []).append(style)
        masks[name] = region
    whole = sum(style.weight for style in job.styles)
    positions: dict[str, Tensor] = {}
    if any(mask is not None for mask in masks.values()):
        blank = torch.zeros(1, 3, job.height, job.width, device=network.device)
        positions = network.features(blank, tuple(weights), parameters.pooling)
    usual = {}
    if parameters.normalization == "target":
        usual = cache.usual(network, parameters)
    found = []
    for name, styles in together.items():
        mask = masks[name]
        guides = None if mask is None else {layer: _guide(mask, seen) for layer, seen in positions.items()}
        values = [cache.statistics(network, _recolored(style, job), parameters) for style in styles]
        shares = [style.weight / whole for style in styles]
        found.append(
            style_targets(
                values,
                shares,
                weights,
                parameters.style_weight,
                parameters.normalization,
                statistic=parameters.style_loss,
                guides=guides,
                usual=usual,
            )
        )
    return tuple(found)


def _guide(mask: UInt8[Tensor, "_ _"], features: Float[Tensor, "1 _ _ _"]) -> Float[Tensor, "1 _ _"]:
    """Return a mask at a layer's positions, scaled to a mean square of 1."""
    height, width = features.shape[2:]
    pooled = F.adaptive_avg_pool2d(mask[None].to(features.device).float() / 255, (height, width))
    return pooled / pooled.square().mean().sqrt().clamp_min(1e-6)


def _frame(job: Job, device: torch.device) -> Frame | None:
    if job.mask is None or job.content is None:
        return None
    return Frame(job.mask[None].to(device).float() / 255, _seen_content(job, device)[0])


def _seen_content(job: Job, device: torch.device) -> Float[Tensor, "1 3 height width"]:
    """Return the content as the network sees it: in grey if only the luminance is painted."""
    if job.content is None:
        raise ValueError("the job has no content")
    return to_canvas(colors.grey(job.content) if job.parameters.color == "luminance" else job.content, device)


def _recolored(style: Style, job: Job) -> Style:
    """Return a style with its colours converted as the job's ``color`` requires."""
    color, content = job.parameters.color, job.content
    if content is None or color == "style":
        return style
    recolor = colors.grey_like if color == "luminance" else colors.colored_like
    return replace(style, pixels=recolor(style.pixels, content), digest="")


def first_canvas(job: Job, device: torch.device) -> Float[Tensor, "1 3 height width"]:
    """Return the initial canvas of a job.

    It is the content, the initial image, the first style, or white noise around mid-grey drawn on the CPU from the job's seed.
    """
    init = job.parameters.init
    if init == "content" and job.content is not None:
        return _seen_content(job, device)
    if init == "image" and job.init_image is not None:
        return to_canvas(job.init_image, device)
    if init == "style" and job.styles:
        style = _recolored(job.styles[0], job).pixels
        return _resized(to_canvas(style, device), (job.height, job.width)).contiguous()
    generator = torch.Generator().manual_seed(job.parameters.seed)
    noise = torch.randn(1, 3, job.height, job.width, generator=generator)
    return (noise * NOISE_DEVIATION + NOISE_MEAN).to(device)


def finished(canvas: Float[Tensor, "3 height width"], job: Job) -> Float[Tensor, "3 height width"]:
    """Return a canvas as the output picture: with the frame applied and the job's colour handling."""
    canvas = framed(canvas, _frame(job, canvas.device))
    if job.parameters.color != "luminance" or job.content is None:
        return canvas
    content = to_canvas(job.content, canvas.device)[0]
    picture = colors.with_brightness(content, canvas)
    if job.mask is not None:  # the brightness was rounded to 8 bits, so restore the exact content outside the mask
        picture = torch.where(job.mask.to(canvas.device) == 0, content, picture)
    return picture


def change(picture: Float[Tensor, "3 height width"], job: Job) -> float:
    """Return the difference between a finished picture and the job's initial canvas.

    Root mean square over the painted area, in 8-bit levels; infinite if the mask leaves nothing to paint.
    """
    start = finished(first_canvas(job, picture.device)[0], job)
    squares = (picture.clamp(0, 1) - start.clamp(0, 1)).square().mean(dim=0)
    painted = torch.ones_like(squares) if job.mask is None else job.mask.to(squares.device).float() / 255
    area = float(painted.sum())
    return 255 * (float((squares * painted).sum()) / area) ** 0.5 if area else math.inf


@dataclass(frozen=True)
class Level:
    """A job at one of its sizes.

    Attributes:
        job: The job with its pictures at this size.
        done: Number of steps at the coarser levels.
        last: Number of the last step at this level.
    """

    job: Job
    done: int
    last: int


def levels(job: Job) -> list[Level]:
    """Return the job at each of its sizes, coarsest first."""
    found = []
    done = 0
    for size, steps in zip(level_sizes(job.parameters), level_steps(job.parameters), strict=True):
        found.append(Level(_scaled(job, size / job.parameters.size_px), done, done + steps))
        done += steps
    return found


def level_of(plan: Sequence[Level], state: SampleState) -> int:
    """Return the index of the level at which a sample goes on: that of its canvas's size.

    Its steps alone do not tell: another version may have divided a job's steps otherwise. They tell which of several levels of
    one size, as small canvases have them, whose sides are rounded or at the least that the network takes.

    Raises:
        ValueError: If no level has that size.
    """
    size = tuple(state.tensors["canvas"].shape[2:])
    found = [index for index, level in enumerate(plan) if (level.job.height, level.job.width) == size]
    if not found:
        raise ValueError(f"the state has a canvas of {size}, and the job has none of that size")
    return next((index for index in found if state.step < plan[index].last), found[-1])


def _scaled(job: Job, scale: float) -> Job:
    if scale == 1:
        return job
    least = ARCHITECTURES[split(job.parameters.network)[0]].min_side_px

    def smaller(pixels: UInt8[Tensor, "_ _ 3"] | None) -> Any:
        if pixels is None:
            return None
        size = [max(least, round(side * scale)) for side in pixels.shape[:2]]
        return to_pixels(_resized(to_canvas(pixels, CPU), size)[0])

    height, width = (max(least, round(side * scale)) for side in (job.height, job.width))
    styles = []
    for style in job.styles:
        pixels = smaller(style.pixels)
        mask, region = _smaller_mask(style.mask, pixels.shape[:2]), _smaller_mask(style.region, (height, width))
        styles.append(replace(style, pixels=pixels, mask=mask, region=region))
    return replace(
        job,
        height=height,
        width=width,
        content=smaller(job.content),
        styles=tuple(styles),
        mask=_smaller_mask(job.mask, (height, width)),
        init_image=smaller(job.init_image),
    )


def _smaller_mask(mask: UInt8[Tensor, "_ _"] | None, size: Sequence[int]) -> UInt8[Tensor, "_ _"] | None:
    if mask is None:
        return None
    height, width = size
    return F.adaptive_avg_pool2d(mask[None].float(), (height, width)).round().to(torch.uint8)[0]


def _resized(canvas: Float[Tensor, "1 3 _ _"], size: Sequence[int]) -> Float[Tensor, "1 3 _ _"]:
    return F.interpolate(canvas, size=list(size), mode="bicubic", antialias=True)


def next_canvas(
    coarse: Float[Tensor, "3 _ _"], before: Job, job: Job, device: torch.device
) -> Float[Tensor, "1 3 height width"]:
    """Return the initial canvas of a level: the previous canvas, upsampled, with the content's detail restored.

    Only the difference between the canvas and the content is upsampled, so that edges that the coarse canvas could not
    represent are sharp from the start. A texture is upsampled directly.
    """
    size = (job.height, job.width)
    if job.content is None or before.content is None:
        return _resized(coarse[None], size).contiguous()
    moved = coarse[None] - _seen_content(before, device)
    return (_seen_content(job, device) + _resized(moved, size)).contiguous()


def entrant(
    network: Network,
    level: Level,
    cache: StyleCache | None = None,
    canvas: Float[Tensor, "1 3 height width"] | None = None,
    carried: Mapping[str, Tensor] | None = None,
) -> Entrant:
    """Prepare a job at one level to join a running batch. Any thread may do so.

    Args:
        network: The batch's network.
        level: The level to paint.
        cache: Cache of style statistics, used by one thread at a time.
        canvas: Initial canvas; the job's own first canvas if omitted.
        carried: Optimizer state carried over from a coarser level.
    """
    parameters = level.job.parameters
    return samples.entrant(
        objective(network, level.job, cache),
        first_canvas(level.job, network.device) if canvas is None else canvas,
        parameters.optimizer,
        parameters.learning_rate,
        parameters.history,
        level.last,
        level.done,
        parameters.tolerance,
        carried,
    )


def resumed(network: Network, level: Level, state: SampleState, cache: StyleCache | None = None) -> Entrant:
    """Prepare a job at one level to go on from an exported state, as :func:`entrant` does from its start."""
    return samples.resumed(objective(network, level.job, cache), state, level.last, network.device)


def join(batch: RunningBatch, name: str, level: Level, cache: StyleCache | None = None) -> None:
    """Prepare a job at one level, and add it to a running batch of that shape."""
    batch.add(name, entrant(batch.network, level, cache))


def climb(
    before: RunningBatch, after: RunningBatch, name: str, level: Level, following: Level, cache: StyleCache | None = None
) -> None:
    """Let a job leave the batch of one level and go on in that of the next, from its canvas enlarged."""
    canvas, job = before.canvas(name), following.job
    carried = before.carried(name, job.height, job.width)
    enlarged = next_canvas(canvas, level.job, job, after.network.device)
    ready = entrant(after.network, following, cache, enlarged, carried)
    before.leave(name)
    after.add(name, ready)


def resume(batch: RunningBatch, name: str, level: Level, state: SampleState, cache: StyleCache | None = None) -> None:
    """Prepare a job at one level and resume it in a running batch from an exported state."""
    batch.add(name, resumed(batch.network, level, state, cache))


def paint(network: Network, job: Job, progress: Callable[[Step], bool | None] = lambda _step: None) -> tuple[Pixels, Step]:
    """Run one job to completion and return the picture and the last step.

    Args:
        network: The network to use.
        job: The job to paint.
        progress: Called after every step. Returning True stops the job.
    """
    plan = levels(job)
    batch = RunningBatch(network, plan[0].job.key(network.device))
    join(batch, "job", plan[0])
    for level, following in zip(plan, (*plan[1:], None), strict=True):
        step, stopped = _run(batch, level.last, progress)
        if stopped or following is None:
            break
        finer = RunningBatch(network, following.job.key(network.device))
        climb(batch, finer, "job", level, following)
        batch = finer
    return to_pixels(finished(batch.canvas("job"), level.job)), step


def _run(batch: RunningBatch, last: int, progress: Callable[[Step], bool | None]) -> tuple[Step, bool]:
    """Step until the end of a level, until no further improvement is found, or until the caller stops the job."""
    while True:
        for _, step in batch.step():
            stopped = bool(progress(step))
            if stopped or step.last or step.step >= last:
                return step, stopped
