"""From pictures and parameters to an objective and a first canvas; and the whole of a job in one call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from impasto_engine.batch import BatchKey, RunningBatch, SampleState, Step
from impasto_engine.devices import resolve_precision
from impasto_engine.networks import Network
from impasto_engine.objective import (
    Objective,
    content_targets,
    style_grams,
    style_targets,
    to_canvas,
    to_pixels,
)
from impasto_engine.parameters import Parameters, level_sizes, level_steps

MIN_SIDE_PX = 16
"""Of any canvas or picture, so that the network's deepest layers still have positions."""
NOISE_MEAN, NOISE_DEVIATION = 0.5, 0.15
Pixels = UInt8[Tensor, "height width 3"]


@dataclass(frozen=True)
class Style:
    """One style picture and its share in the mix.

    Attributes:
        pixels: 8-bit sRGB, at the size its strokes shall have on the canvas.
        weight: Share relative to the other styles.
        digest: Names the pixels in the cache of Gram matrices; empty to leave the cache alone.
    """

    pixels: Pixels
    weight: float = 1.0
    digest: str = ""


@dataclass(frozen=True)
class Job:
    """One painting to make: pictures at canvas size, and how.

    Attributes:
        height: Of the canvas, in pixels.
        width: Of the canvas, in pixels.
        content: 8-bit sRGB of exactly that size, or None for a texture.
        styles: Any number; none for a content reconstruction.
        parameters: How it is painted.
    """

    height: int
    width: int
    content: Pixels | None
    styles: Sequence[Style]
    parameters: Parameters

    def key(self, device: torch.device) -> BatchKey:
        """Return which running batch on a device can take the job."""
        arithmetic = resolve_precision(self.parameters.precision, device)
        return BatchKey(self.height, self.width, self.parameters.pooling, arithmetic)


class StyleCache:
    """Gram matrices of the styles seen last, so that a popular style is put through the network once.

    Args:
        capacity: Styles kept; each takes 2.4 MB with the default layers.
    """

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[tuple[object, ...], dict[str, Tensor]] = OrderedDict()

    def grams(self, network: Network, style: Style, parameters: Parameters) -> dict[str, Tensor]:
        """Return the style's Gram matrices at the layers that the parameters weigh."""
        layers = tuple(sorted(parameters.style_layers))
        key = (network.weights.sha256, style.digest, style.pixels.shape, layers, parameters.pooling)
        if style.digest and key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        seen = network.features(to_canvas(style.pixels, network.device), layers, parameters.pooling)
        grams = style_grams(seen)
        if style.digest:
            self._entries[key] = grams
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        return grams


def objective(network: Network, job: Job, cache: StyleCache | None = None) -> Objective:
    """Return what the job's canvas will be judged by. Targets are formed in float32 whatever the job's precision."""
    parameters = job.parameters
    content, style = {}, {}
    if job.content is not None and parameters.content_weight > 0:
        weights = {layer: weight for layer, weight in parameters.content_layers.items() if weight > 0}
        seen = network.features(to_canvas(job.content, network.device), tuple(weights), parameters.pooling)
        content = content_targets(seen, weights, parameters.content_weight, parameters.normalization)
    if job.styles and parameters.style_weight > 0:
        weights = {layer: weight for layer, weight in parameters.style_layers.items() if weight > 0}
        cache = cache or StyleCache(0)
        grams = [cache.grams(network, picture, parameters) for picture in job.styles]
        shares = [picture.weight for picture in job.styles]
        style = style_targets(grams, shares, weights, parameters.style_weight, parameters.normalization)
    return Objective(content, style, parameters.total_variation_weight)


def first_canvas(job: Job, device: torch.device) -> Float[Tensor, "1 3 height width"]:
    """Return what the job starts from: its content, or white noise around mid-grey, drawn on the CPU by the job's seed."""
    if job.parameters.init == "content" and job.content is not None:
        return to_canvas(job.content, device)
    generator = torch.Generator().manual_seed(job.parameters.seed)
    noise = torch.randn(1, 3, job.height, job.width, generator=generator)
    return (noise * NOISE_DEVIATION + NOISE_MEAN).to(device)


@dataclass(frozen=True)
class Level:
    """A job at one of the sizes that it is painted at.

    Attributes:
        job: With its pictures at this size.
        done: Steps of the coarser levels.
        last: Number of the last step here.
    """

    job: Job
    done: int
    last: int


def levels(job: Job) -> list[Level]:
    """Return the job at each of its sizes, from the coarsest."""
    found = []
    done = 0
    for size, steps in zip(level_sizes(job.parameters), level_steps(job.parameters), strict=True):
        found.append(Level(_scaled(job, size / job.parameters.size_px), done, done + steps))
        done += steps
    return found


def _scaled(job: Job, scale: float) -> Job:
    if scale == 1:
        return job
    content = None if job.content is None else _smaller(job.content, scale)
    styles = tuple(replace(style, pixels=_smaller(style.pixels, scale)) for style in job.styles)
    height, width = (max(MIN_SIDE_PX, round(side * scale)) for side in (job.height, job.width))
    return replace(job, height=height, width=width, content=content, styles=styles)


def _smaller(pixels: UInt8[Tensor, "_ _ 3"], scale: float) -> UInt8[Tensor, "_ _ 3"]:
    size = [max(MIN_SIDE_PX, round(side * scale)) for side in pixels.shape[:2]]
    return to_pixels(_resized(to_canvas(pixels, torch.device("cpu")), size)[0])


def _resized(canvas: Float[Tensor, "1 3 _ _"], size: Sequence[int]) -> Float[Tensor, "1 3 _ _"]:
    return F.interpolate(canvas, size=list(size), mode="bicubic", antialias=True)


def next_canvas(
    coarse: Float[Tensor, "3 _ _"], before: Job, job: Job, device: torch.device
) -> Float[Tensor, "1 3 height width"]:
    """Return what a level starts from: the canvas of the one before, enlarged, with the content's detail put back.

    What is enlarged is how far the canvas moved away from the content, so that edges which the coarse canvas could not hold
    are sharp from the start. A texture is enlarged as it is.
    """
    size = (job.height, job.width)
    if job.content is None or before.content is None:
        return _resized(coarse[None], size).contiguous()
    moved = coarse[None] - to_canvas(before.content, device)
    return (to_canvas(job.content, device) + _resized(moved, size)).contiguous()


def join(
    batch: RunningBatch,
    name: str,
    level: Level,
    cache: StyleCache | None = None,
    canvas: Float[Tensor, "1 3 height width"] | None = None,
) -> None:
    """Prepare a job at one level and let it join a running batch.

    Args:
        batch: Of the level's shape.
        name: Of the job in the batch.
        level: What to paint.
        cache: Of Gram matrices.
        canvas: Where to start; the job's own first canvas if none is given.
    """
    parameters = level.job.parameters
    device = batch.network.device
    batch.join(
        name,
        objective(batch.network, level.job, cache),
        first_canvas(level.job, device) if canvas is None else canvas,
        parameters.optimizer,
        parameters.learning_rate,
        parameters.history,
        level.last,
        level.done,
    )


def resume(batch: RunningBatch, name: str, level: Level, state: SampleState, cache: StyleCache | None = None) -> None:
    """Prepare a job at one level and let it go on in a running batch where its state was exported."""
    batch.resume(name, objective(batch.network, level.job, cache), state, level.last)


def paint(network: Network, job: Job, progress: Callable[[Step], bool | None] = lambda _step: None) -> tuple[Pixels, Step]:
    """Run one job to its end and return the picture and its last step.

    Args:
        network: Where to run.
        job: What to paint.
        progress: Called after every step; returning True stops there.
    """
    plan = levels(job)
    start: Tensor | None = None
    for level, following in zip(plan, (*plan[1:], None), strict=True):
        batch = RunningBatch(network, level.job.key(network.device))
        join(batch, "job", level, canvas=start)
        step, enough = _run(batch, level.last, progress)
        if enough or following is None:
            break
        start = next_canvas(batch.canvas("job"), level.job, following.job, network.device)
    return to_pixels(batch.canvas("job")), step


def _run(batch: RunningBatch, last: int, progress: Callable[[Step], bool | None]) -> tuple[Step, bool]:
    """Step to a level's end, or until the canvas cannot be bettered there or the caller has enough."""
    while True:
        for _, step in batch.step():
            enough = bool(progress(step))
            if enough or step.stalled or step.step >= last:
                return step, enough
