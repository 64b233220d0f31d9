"""Paints the sample style pictures: swirls.jpg, embers.jpg and mosaic.jpg.

Nothing is photographed or copied: every picture consists of a few thousand simulated brush strokes. A stroke follows a flow
field, carries two colours on one brush, leaves bristle streaks and raises the paint. At the end the raised paint is lit from
the upper left. The pictures are identical on every run. Usage: `python paint_styles.py [--output DIR]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float32]
Flow = Callable[[Array, Array], tuple[Array, Array]]
"""Velocity (vx, vy) of the brush at points (x, y); only its direction matters."""
Pigment = Callable[[Array, Array, np.random.Generator], Array]
"""Colours (n, 3) of strokes centred at points (x, y)."""

WIDTH, HEIGHT = 640, 512
SCALE = 2  # supersampling factor, for smooth edges
QUALITY = 92
STEP = 0.7  # pixels between a stroke's samples; below 1/√2 to avoid holes


def rgb(*codes: str) -> Array:
    """Colours (n, 3) in 0..1 from hexadecimal codes."""
    return np.array([[int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)] for code in codes], np.float32)


def ramp(colours: Array, t: Array) -> Array:
    """Colours at positions t in 0..1 along a list of colours."""
    at = np.clip(t, 0, 1) * (len(colours) - 1)
    low = np.minimum(at.astype(int), len(colours) - 2)
    part = (at - low)[:, None]
    return np.asarray(colours[low] * (1 - part) + colours[low + 1] * part, np.float32)


def smooth(t: Array, low: float, high: float) -> Array:
    """Rises smoothly from 0 at low to 1 at high."""
    s = np.clip((t - low) / (high - low), 0, 1)
    return np.asarray(s * s * (3 - 2 * s), np.float32)


def resize(a: Array, width: int, height: int) -> Array:
    """Bicubic enlargement or reduction of one plane."""
    return np.asarray(Image.fromarray(a).resize((width, height), Image.Resampling.BICUBIC), np.float32)


def noise(rng: np.random.Generator, width: int, height: int, cell_x: float, cell_y: float) -> Array:
    """Smooth noise of mean 0 and deviation 1, with features about cell_x by cell_y pixels."""
    coarse = rng.standard_normal((int(height / cell_y) + 3, int(width / cell_x) + 3)).astype(np.float32)
    plane = resize(coarse, width, height)
    return np.asarray((plane - plane.mean()) / plane.std(), np.float32)


def lookup(plane: Array, x: Array, y: Array) -> Array:
    """The plane's values at points in picture coordinates; points outside read the edge."""
    rows, columns = plane.shape
    i = np.clip((y * (rows / HEIGHT)).astype(int), 0, rows - 1)
    j = np.clip((x * (columns / WIDTH)).astype(int), 0, columns - 1)
    return np.asarray(plane[i, j], np.float32)


def grid(width: int, height: int) -> tuple[Array, Array]:
    """Picture coordinates of the centres of a width by height raster."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return (x + 0.5) * (WIDTH / width), (y + 0.5) * (HEIGHT / height)


def trace(flow: Flow, x: Array, y: Array, length: Array, steps: int) -> Array:
    """Paths (n, steps + 1, 2) that follow the flow for a given length, centred on the points."""
    middle = steps // 2
    path = np.empty((len(x), steps + 1, 2), np.float32)
    path[:, middle] = np.stack([x, y], 1)
    for sign, order in ((1, range(middle, steps)), (-1, range(middle, 0, -1))):
        for k in order:
            vx, vy = flow(path[:, k, 0], path[:, k, 1])
            pace = sign * length / steps / (np.hypot(vx, vy) + 1e-6)
            path[:, k + sign] = path[:, k] + np.stack([vx * pace, vy * pace], 1)
    return path


def streaks(flow: Flow, rng: np.random.Generator, cell: float, length: float) -> Array:
    """Noise smeared along the flow, deviation 1: bands that follow the strokes."""
    width, height, steps = WIDTH // 4, HEIGHT // 4, 40
    x, y = grid(width, height)
    path = trace(flow, x.ravel(), y.ravel(), np.full(x.size, length, np.float32), steps)
    plane = noise(rng, WIDTH, HEIGHT, cell, cell)
    mean = lookup(plane, path[..., 0], path[..., 1]).mean(1).reshape(height, width)
    return np.asarray((mean - mean.mean()) / mean.std(), np.float32)


@dataclass(frozen=True)
class Brush:
    """How a layer of strokes is applied.

    Attributes:
        width: width of a stroke in picture pixels.
        length: length of a stroke in picture pixels.
        cover: how often the layer covers the picture; below 1 it leaves gaps.
        load: how loaded the brush is: 1 covers fully, less breaks up along the bristles.
        relief: height of the paint.
        contrast: lightness of the bristle streaks.
    """

    width: float
    length: float
    cover: float
    load: float = 0.9
    relief: float = 1.0
    contrast: float = 0.055


@dataclass
class Canvas:
    """Wet paint: colours and heights on an enlarged raster.

    Attributes:
        rng: source of all randomness in the picture.
        colour: colours (pixels, 3).
        height: height of the paint (pixels).
        tiles: number of the tile under each pixel, if strokes must stay within their tile.
    """

    rng: np.random.Generator
    colour: Array = field(init=False)
    height: Array = field(init=False)
    tiles: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        """Creates a clean canvas and a set of bristles."""
        self.width, self.rows = WIDTH * SCALE, HEIGHT * SCALE
        self.colour = np.full((self.width * self.rows, 3), 0.5, np.float32)
        self.height = np.zeros(self.width * self.rows, np.float32)
        fine = noise(self.rng, 2048, 512, 150, 3.2) * 0.7 + noise(self.rng, 2048, 512, 50, 6.5) * 0.5
        self.hairs: Array = fine + noise(self.rng, 2048, 512, 5, 2.2) * 0.16
        self.clumps: Array = noise(self.rng, 2048, 512, 170, 9.0)

    def ground(self, pigment: Pigment) -> None:
        """Covers the canvas with a thin first wash of the picture's own colours."""
        x, y = grid(self.width, self.rows)
        self.colour[:] = pigment(x.ravel(), y.ravel(), self.rng)

    def layer(self, flow: Flow, pigment: Pigment, brush: Brush, where: Pigment | None = None) -> None:
        """Applies strokes all over the picture (or with probability `where`), in random order."""
        x, y = self._scatter(brush.width * brush.length / brush.cover)
        if where is not None:
            keep = where(x, y, self.rng) > self.rng.random(len(x))
            x, y = x[keep], y[keep]
        length = np.exp(self.rng.normal(np.log(brush.length), 0.3, len(x))).astype(np.float32)
        width = brush.width * np.exp(self.rng.normal(0, 0.2, len(x)))
        paths = trace(flow, x, y, length, 16) * SCALE
        main, second = pigment(x, y, self.rng), pigment(x, y, self.rng)
        for k in range(len(x)):
            self.stroke(paths[k], float(width[k]) * SCALE, (main[k], second[k]), brush)

    def _scatter(self, area: float) -> tuple[Array, Array]:
        """Points spread evenly but irregularly, one per `area`, extending slightly beyond the edges."""
        pitch = float(np.sqrt(area))
        margin = 12
        y, x = np.mgrid[-margin : HEIGHT + margin : pitch, -margin : WIDTH + margin : pitch]
        points = np.stack([x.ravel(), y.ravel()], 1) + self.rng.uniform(0, pitch * 1.3, (x.size, 2))
        points = self.rng.permutation(points)
        return np.asarray(points[:, 0], np.float32), np.asarray(points[:, 1], np.float32)

    def stroke(self, path: Array, width: float, colours: tuple[Array, Array], brush: Brush) -> None:
        """Draws one stroke along a path in raster pixels."""
        spine, normal, length = _resample(path)
        u = np.linspace(0, 1, len(spine), dtype=np.float32)[:, None]
        v = np.linspace(-1, 1, max(int(width / STEP), 4), dtype=np.float32)[None, :]
        hairs, clumps = self._bristles(len(spine), v.shape[1])
        girth = np.sqrt(smooth(u * length, -0.25 * width, 0.5 * width)) * (1 - 0.35 * smooth(u, 0.6, 1))
        at = spine[:, None, :] + normal[:, None, :] * (v * girth * width / 2)[..., None]
        alpha = _coverage(u, v, hairs, brush.load, width / length)
        tint = 0.8 * smooth(clumps + 0.4 * hairs, 0.0, 2.0)[..., None]
        paint = colours[0] * (1 - tint) + colours[1] * tint
        paint = paint * (1 + brush.contrast * 1.6 * hairs[..., None]) + brush.contrast * 0.35 * hairs[..., None]
        ridge = smooth(np.abs(v), 0.6, 0.85) * 1.1 + smooth(u, 0.8, 0.95) * 0.35
        bump = brush.relief * (0.9 + 0.42 * hairs + ridge) * (width / 20) ** 0.5
        self._blend(at, alpha, paint, bump)

    def _bristles(self, along: int, across: int) -> tuple[Array, Array]:
        """A random patch of the bristles' streaks, and of their clumps."""
        i = int(self.rng.integers(0, 512 - min(across, 500)))
        j = int(self.rng.integers(0, 2048 - min(along, 2000)))
        return self.hairs[i : i + across, j : j + along].T, self.clumps[i : i + across, j : j + along].T

    def _blend(self, at: Array, alpha: Array, paint: Array, bump: Array) -> None:
        """Mixes the stroke's samples into the pixels under them."""
        x, y = np.rint(at[..., 0]).astype(np.int64), np.rint(at[..., 1]).astype(np.int64)
        seen = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.rows) & (alpha > 0.02)
        index = (y * self.width + x)[seen]
        if self.tiles is not None and index.size:
            centre = at[len(at) // 2, at.shape[1] // 2].astype(int)
            own = self.tiles[np.clip(centre[1], 0, self.rows - 1) * self.width + np.clip(centre[0], 0, self.width - 1)]
            inside = self.tiles[index] == own
            seen[seen] = inside
            index = index[inside]
        a = alpha[seen]
        self.colour[index] += (paint[seen] - self.colour[index]) * a[:, None]
        self.height[index] += (bump[seen] + 0.35 * self.height[index] - self.height[index]) * a

    def finish(self, gloss: float = 0.16) -> Image.Image:
        """Lights the relief from the upper left and downsamples the picture."""
        height = _blur(self.height.reshape(self.rows, self.width))
        gy, gx = np.gradient(height)
        slope = (gx + gy) * 0.7
        light = np.tanh(slope * 1.5)[..., None]
        colour = self.colour.reshape(self.rows, self.width, 3)
        lit = colour * (1 + 0.3 * light) + gloss * np.clip(light - 0.3, 0, None) * (0.25 + 0.75 * colour)
        pixels = (np.clip(lit, 0.02, 1) * 255 + 0.5).astype(np.uint8)
        return Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _resample(path: Array) -> tuple[Array, Array, float]:
    """The path resampled at even steps, its unit normals, and its length."""
    legs = np.hypot(*np.diff(path, axis=0).T)
    along = np.concatenate([[0], np.cumsum(legs)])
    at = np.linspace(0, along[-1], max(int(along[-1] / STEP), 8))
    spine = np.stack([np.interp(at, along, path[:, i]) for i in (0, 1)], 1).astype(np.float32)
    tangent = np.gradient(spine, axis=0)
    tangent /= np.hypot(tangent[:, :1], tangent[:, 1:]) + 1e-6
    return spine, np.stack([-tangent[:, 1], tangent[:, 0]], 1), float(along[-1])


def _coverage(u: Array, v: Array, hairs: Array, load: float, stubbiness: float) -> Array:
    """The amount of paint at (u, v): ragged at the sides, with hairs that run dry one by one at the end."""
    sides = smooth(1 - np.abs(v) + 0.07 * hairs, 0.0, 0.14)
    reach = 1 - stubbiness * (0.45 + 0.3 * hairs)
    tail = smooth(reach - u, -0.02, 0.04)
    head = smooth(u + stubbiness * 0.12 * hairs, 0, 0.03)
    dry = smooth(hairs + 4.2 * load - 1.4 - 0.9 * u, -0.5, 0.6)
    return np.asarray(sides * tail * head * dry, np.float32)


def _blur(a: Array) -> Array:
    """A light binomial blur."""
    padded = np.pad(a, 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16, np.float32)


def jitter(colours: Array, rng: np.random.Generator, amount: float) -> Array:
    """Varies the lightness of every colour, and each channel a little less."""
    light = rng.normal(1, amount, (len(colours), 1))
    return np.asarray(np.clip(colours * light + rng.normal(0, amount * 0.3, colours.shape), 0.02, 0.99), np.float32)


VORTICES = np.array(
    [  # x, y, radius, rotation
        [265, 205, 92, 1.0],
        [402, 262, 66, -1.0],
        [548, 96, 74, 1.0],
        [86, 92, 50, -1.0],
        [214, 52, 34, 1.0],
        [372, 74, 40, -1.0],
        [92, 262, 38, 1.0],
        [566, 266, 40, -1.0],
        [478, 190, 26, 1.0],
    ],
    np.float32,
)
NIGHT = rgb("0f1a4e", "16257a", "1c3f9e", "2459b8", "2f7cc4", "3fa3bd", "7cc4bf", "d9dfc2")
HALO = rgb("fff3c4", "f9d75e", "f0b02e", "f3e3a4", "8fcbb8", "3d93bf", "2459b8")
FIELDS = rgb("0e1f3d", "123a55", "1d5663", "2f7a6d", "6f9a5e", "c9a743")


def hill(x: Array) -> Array:
    """Height of the land's edge in the swirls."""
    return np.asarray(408 + 26 * np.sin(x / 92 + 0.6) - 18 * np.sin(x / 41 + 2) - 0.05 * x, np.float32)


def night_flow(x: Array, y: Array) -> tuple[Array, Array]:
    """Wind with swirls above, rolling land below."""
    vx = 1 + 0.15 * np.sin(y / 50)
    vy = 0.5 * np.sin(x / 85 + y / 130) + 0.25 * np.sin(x / 37 - y / 60)
    for cx, cy, radius, turn in VORTICES:
        dx, dy = x - cx, y - cy
        r = np.hypot(dx, dy) + 1e-3
        pull = 3.2 * turn * np.exp(-((r / radius) ** 2))
        vx, vy = vx + pull * (-dy - 0.12 * dx) / r, vy + pull * (dx - 0.12 * dy) / r
    land = smooth(y - hill(x), -14, 10)
    slope = (hill(x + 1) - hill(x - 1)) / 2 + 0.5 * np.sin(x / 29 + y / 17) * smooth(y - hill(x), 10, 60)
    return np.asarray(vx * (1 - land) + land, np.float32), np.asarray(vy * (1 - land) + slope * land, np.float32)


def night_pigment(rng: np.random.Generator) -> Pigment:
    """Blues in bands along the wind, gold around the swirls, blue-green land."""
    bands = streaks(night_flow, rng, 13, 190)

    def pigment(x: Array, y: Array, chance: np.random.Generator) -> Array:
        band = lookup(bands, x, y) + chance.normal(0, 0.45, len(x)).astype(np.float32)
        colour = ramp(NIGHT, 0.4 + 0.19 * band)
        for cx, cy, radius, _ in VORTICES:
            r = np.hypot(x - cx, y - cy) / (0.85 * radius) + chance.normal(0, 0.07, len(x)).astype(np.float32)
            glow = (1 - smooth(r, 0.65, 1.1))[:, None]
            colour = colour * (1 - glow) + ramp(HALO, r + 0.05 * band) * glow
        land = smooth(y - hill(x), -5, 5)[:, None]
        return jitter(colour * (1 - land) + ramp(FIELDS, 0.36 + 0.24 * band) * land, chance, 0.07)

    return pigment


def swirls() -> Image.Image:
    """A windy night: swirls of light over rolling land."""
    canvas = Canvas(np.random.default_rng(1889))
    pigment = night_pigment(canvas.rng)
    canvas.ground(pigment)
    canvas.layer(night_flow, pigment, Brush(24, 95, 2.6))
    canvas.layer(night_flow, pigment, Brush(16, 66, 2.2))
    canvas.layer(night_flow, pigment, Brush(11, 46, 1.1))
    canvas.layer(night_flow, pigment, Brush(7.5, 34, 0.4, load=0.8, relief=1.2))
    return canvas.finish()


SUNSET = rgb("12303a", "3b2440", "8c2a4a", "c93a3c", "e4502a", "f07f2a", "f6ac3c", "f9d27a")
SEA = rgb("0b2229", "11363f", "1d4f56", "5a3350", "b8443f", "ee8a35", "f8c765")
SUN = np.array([418, 226, 44], np.float32)
SHORE = 318


def ember_flow(x: Array, y: Array) -> tuple[Array, Array]:
    """Long, nearly level waves that part around the sun like a stream around a pile; rings inside it."""
    calm = 1 - 0.5 * smooth(y, SHORE, SHORE + 20)
    vy = calm * (0.38 * np.sin(x / 78 + y / 46) + 0.24 * np.sin(x / 43 - y / 71 + 1))
    dx, dy = x - SUN[0], y - SUN[1]
    r2 = dx**2 + dy**2 + 1e-3
    bend = (1.25 * SUN[2]) ** 2 / r2**2 * (1 - smooth(y, SHORE - 10, SHORE + 5))
    vx, vy = 1 - bend * (dx**2 - dy**2), vy - 2 * bend * dx * dy
    disc = 1 - smooth(np.sqrt(r2), 1.15 * SUN[2], 1.3 * SUN[2])
    spin = disc / np.sqrt(r2)
    return np.asarray(vx * (1 - disc) - spin * dy, np.float32), np.asarray(vy * (1 - disc) + spin * dx, np.float32)


def ember_pigment(rng: np.random.Generator) -> Pigment:
    """Fire that deepens upwards, a pale sun, and dark water with its reflection."""
    bands = streaks(ember_flow, rng, 12, 240)

    def pigment(x: Array, y: Array, chance: np.random.Generator) -> Array:
        band = lookup(bands, x, y) + chance.normal(0, 0.4, len(x)).astype(np.float32)
        warm = np.exp(-(((x - SUN[0]) / 300) ** 2)).astype(np.float32)
        colour = ramp(SUNSET, 0.22 + 0.4 * (y / SHORE) + 0.12 * warm * (y / SHORE) + 0.17 * band)
        r = np.hypot(x - SUN[0], y - SUN[1]) / SUN[2]
        disc = (1 - smooth(r, 0.9, 1.1))[:, None]
        colour = colour * (1 - disc) + ramp(rgb("fff0bd", "fbdc7c", "f8bb4a"), r + 0.15 * band) * disc
        path = np.exp(-(((x - SUN[0]) / (30 + 0.35 * np.abs(y - SHORE))) ** 2)).astype(np.float32)
        water = smooth(y + 3 * band, SHORE - 3, SHORE + 3)[:, None]
        return jitter(colour * (1 - water) + ramp(SEA, 0.27 + 0.35 * path + 0.22 * band) * water, chance, 0.07)

    return pigment


def embers() -> Image.Image:
    """A burning evening over dark water, in long waves."""
    canvas = Canvas(np.random.default_rng(1893))
    pigment = ember_pigment(canvas.rng)
    canvas.ground(pigment)
    canvas.layer(ember_flow, pigment, Brush(26, 170, 2.6))
    canvas.layer(ember_flow, pigment, Brush(18, 125, 2.0))
    canvas.layer(ember_flow, pigment, Brush(12, 90, 0.9, load=0.85))
    canvas.layer(ember_flow, pigment, Brush(8, 64, 0.3, load=0.8, relief=1.2))
    return canvas.finish()


JEWELS = rgb(
    "f7d774",
    "f0a429",
    "dd5a22",
    "b3202f",
    "8a1c56",
    "4b2a86",
    "1f43a3",
    "1877a8",
    "178f80",
    "3f9a4b",
    "c9c455",
)
LEAD = rgb("16131a", "2a2228", "3d3335")
HEART = (236.0, 236.0)


def _sites(rng: np.random.Generator) -> Array:
    """Centres of the tiles: rings around the centre, unevenly filled."""
    points = []
    radius = 15.0
    while radius < 620:
        count = max(int(2 * np.pi * radius / rng.uniform(34, 46)), 3)
        angle = (np.arange(count) + rng.uniform(-0.26, 0.26, count)) * (2 * np.pi / count) + rng.uniform(0, 6)
        r = radius + rng.uniform(-9, 9, count)
        points.append(np.stack([HEART[0] + r * np.cos(angle), HEART[1] + r * np.sin(angle)], 1))
        radius += rng.uniform(30, 42)
    sites = np.concatenate(points).astype(np.float32)
    near = (np.abs(sites - [WIDTH / 2, HEIGHT / 2]) < [WIDTH / 2 + 40, HEIGHT / 2 + 40]).all(1)
    return sites[near]


def _cells(sites: Array, rng: np.random.Generator) -> tuple[npt.NDArray[np.int32], Array]:
    """Each raster pixel's tile and its distance (picture pixels) from the tile's edge."""
    width, rows = WIDTH * SCALE, HEIGHT * SCALE
    x, y = grid(width, rows)
    x = x + 2.2 * noise(rng, width, rows, 50, 50) + 0.5 * noise(rng, width, rows, 12, 12)
    y = y + 2.2 * noise(rng, width, rows, 50, 50) + 0.5 * noise(rng, width, rows, 12, 12)
    tile = np.zeros((rows, width), np.int32)
    nearest, edge = np.full((2, rows, width), 1e9, np.float32)
    for k, window in _windows(sites):
        d = (x[window] - sites[k, 0]) ** 2 + (y[window] - sites[k, 1]) ** 2
        closer = d < nearest[window]
        tile[window][closer] = k
        nearest[window][closer] = d[closer]
    for k, window in _windows(sites):
        own = sites[tile[window]]
        gap = np.hypot(own[..., 0] - sites[k, 0], own[..., 1] - sites[k, 1])
        d = (x[window] - sites[k, 0]) ** 2 + (y[window] - sites[k, 1]) ** 2
        to_edge = np.where(gap > 0, (d - nearest[window]) / (2 * gap + 1e-6), 1e9)
        np.minimum(edge[window], to_edge, out=edge[window])
    return tile, edge


def _windows(sites: Array) -> list[tuple[int, tuple[slice, slice]]]:
    """Each site's number and the part of the raster it may touch."""
    reach = 75
    low = np.maximum((sites - reach) * SCALE, 0).astype(int)
    high = np.maximum((sites + reach) * SCALE, 0).astype(int)
    return [(k, (slice(low[k, 1], high[k, 1]), slice(low[k, 0], high[k, 0]))) for k in range(len(sites))]


def _glass(sites: Array, rng: np.random.Generator) -> Array:
    """A jewel colour for every tile: rings of petals with occasional stray stones."""
    dx, dy = sites[:, 0] - HEART[0], sites[:, 1] - HEART[1]
    r, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    t = r / 430 + 0.06 * np.sin(angle * 5 + r / 60) + rng.normal(0, 0.045, len(sites))
    stray = rng.random(len(sites)) < 0.09
    t = np.where(stray, rng.random(len(sites)), t)
    return jitter(ramp(JEWELS, t.astype(np.float32)), rng, 0.1)


def mosaic() -> Image.Image:
    """Rings of painted glass in dark lead, each piece hatched in its own direction."""
    rng = np.random.default_rng(1907)
    sites = _sites(rng)
    tile, edge = _cells(sites, rng)
    canvas = Canvas(rng, tiles=tile.ravel())
    glass = _glass(sites, rng)
    turn = np.arctan2(sites[:, 1] - HEART[1], sites[:, 0] - HEART[0]) + rng.normal(1.2, 0.5, len(sites))
    lean = rng.uniform(0, 2 * np.pi, len(sites))

    def flow(x: Array, y: Array) -> tuple[Array, Array]:
        angle = turn[lookup(tile.astype(np.float32), x, y).astype(int)] + 0.012 * (x - y)
        return np.asarray(np.cos(angle), np.float32), np.asarray(np.sin(angle), np.float32)

    def pigment(x: Array, y: Array, chance: np.random.Generator) -> Array:
        k = lookup(tile.astype(np.float32), x, y).astype(int)
        across = ((x - sites[k, 0]) * np.cos(lean[k]) + (y - sites[k, 1]) * np.sin(lean[k])) / 20
        return jitter(glass[k] * (1 + 0.24 * across[:, None]) + 0.04 * across[:, None], chance, 0.11)

    canvas.ground(pigment)
    for brush in (Brush(13, 36, 2.5), Brush(9, 30, 1.8), Brush(6, 24, 0.4, load=0.85)):
        canvas.layer(flow, pigment, brush)
    _solder(canvas, edge)
    return canvas.finish(gloss=0.3)


def _solder(canvas: Canvas, edge: Array) -> None:
    """Runs a raised dark line of uneven width between the tiles."""
    rows, width = edge.shape
    half = 2.3 + 0.45 * noise(canvas.rng, width, rows, 40, 40)
    lead = (1 - smooth(edge - half, -0.4, 0.5)).ravel()
    grime = (1 - smooth(edge, 1, 9)).ravel()[:, None]
    tone = 0.5 + 0.25 * noise(canvas.rng, width, rows, 18, 18) + 0.15 * noise(canvas.rng, width, rows, 3, 3)
    canvas.colour *= 1 - 0.3 * grime
    canvas.colour += (ramp(LEAD, tone.ravel()) - canvas.colour) * lead[:, None]
    dome = 5.0 * np.sqrt(np.clip(1 - (edge / (half + 0.5)) ** 2, 0, None)) + 0.3 * (tone - 0.5)
    canvas.height += (dome.ravel() + 1 - canvas.height) * lead


PICTURES = {"swirls": swirls, "embers": embers, "mosaic": mosaic}


def main() -> None:
    """Paints every picture into a folder."""
    parser = argparse.ArgumentParser(description="Paint the sample style pictures.")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent, metavar="DIR")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, paint in PICTURES.items():
        path = output / f"{name}.jpg"
        paint().save(path, quality=QUALITY, optimize=True)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
