"""Draws the sample style pictures that are not oil paintings: cutouts.jpg, etching.jpg and watercolor.jpg.

Nothing is photographed or copied. The cut-outs are smooth outlines on crooked sheets of paper, the etching follows the forms of
a small landscape with hatched lines, and the watercolour adds up the densities of washes on rough paper. The pictures are
identical on every run. Usage: `python draw_styles.py [--output DIR]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from samples import paint_styles as kit  # the type checker runs in the repository root
else:
    import paint_styles as kit

Array = kit.Array
Mask = npt.NDArray[np.bool_]
WIDTH, HEIGHT, DEEP = kit.WIDTH, kit.HEIGHT, kit.SCALE
WHITE, CREAM, INK = kit.rgb("fbf7ee", "f3ead7", "231c1a")
FINE = 4  # supersampling factor of outlines, for smooth edges


def polygon(image: Image.Image, points: Array, fill: int, scale: int = 1) -> None:
    """Fills an outline (n, 2) in picture coordinates."""
    ImageDraw.Draw(image).polygon((points * scale).ravel().tolist(), fill=fill)


def finished(pixels: Array) -> Image.Image:
    """Converts colours in 0..1 to a picture, downsampled to its final size."""
    picture = Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


# Paper cut-outs: cream, ultramarine, coral, saffron, rose, emerald, ink and sky.
PAPERS = kit.rgb("f5ead3", "1f3d9c", "e4502e", "f3ae1f", "ef9db1", "15875f", "171c3f", "7fc4d6")


def frond(rng: np.random.Generator) -> Array:
    """Seaweed: a bent stem with round fingers and deep cuts. Like all outlines, shape (n, 2) and about unit-circle size."""
    fingers = int(rng.integers(4, 7))
    pitch, spread = 1.45 / fingers, rng.uniform(0.85, 1.2)
    sides = []
    for side in (1, -1):
        points = [[side * 0.06, -1.05]]
        for k in range(fingers):
            root = -0.88 + pitch * (k + rng.uniform(-0.1, 0.1))
            angle = spread * (1 - 0.55 * k / fingers) + rng.uniform(-0.1, 0.1)
            along = np.array([side * np.sin(angle), np.cos(angle)])
            across = np.array([side * along[1], -side * along[0]]) * pitch * rng.uniform(0.27, 0.34)
            tip = [0, root] + along * (0.34 + 0.42 * np.sin(np.pi * (k + 0.8) / (fingers + 0.7))) * rng.uniform(0.88, 1.12)
            points += [tip + across - along * 0.1, tip + across * 0.6, tip - across * 0.6, tip - across - along * 0.1]
            points += [[side * rng.uniform(0.07, 0.11), root + pitch * 0.6]]
        sides.append(points)
    outline = np.array([*sides[0], [0.11, 0.9], [0.07, 1.08], [-0.07, 1.08], [-0.11, 0.9], *sides[1][::-1]], np.float32)
    outline[:, 0] += rng.uniform(-0.3, 0.3) * (outline[:, 1] ** 2 - 0.4)
    return outline


def burst(rng: np.random.Generator) -> Array:
    """A flower or starfish: round arms around a centre."""
    arms, half = int(rng.integers(5, 8)), rng.uniform(0.15, 0.22)
    angle = 2 * np.pi / arms * (np.arange(arms)[:, None] + [0, 0.5 - half, 0.5, 0.5 + half])
    reach = rng.uniform(0.8, 1.1, (arms, 1)) * [0, 0.86, 1, 0.86]
    reach[:, 0] = rng.uniform(0.26, 0.4, arms)
    return np.stack([reach * np.cos(angle), reach * np.sin(angle)], -1).reshape(-1, 2).astype(np.float32)


def leaf(rng: np.random.Generator) -> Array:
    """A simple pointed leaf, slightly bent."""
    side = [(0, -1), (0.7, -0.55), (1, 0), (0.68, 0.55), (0, 1), (-0.68, 0.55), (-1, 0), (-0.7, -0.55)]
    outline = np.array(side, np.float32) * [rng.uniform(0.28, 0.42), 1]
    return np.asarray(outline + rng.uniform(-0.2, 0.2) * (1 - outline[:, 1:] ** 2) * [1, 0], np.float32)


def pebble(rng: np.random.Generator) -> Array:
    """A bean or a pebble."""
    angle = np.arange(8) * np.pi / 4
    r = 0.75 + 0.2 * np.cos(2 * angle + rng.uniform(0, 6)) + 0.1 * np.cos(3 * angle + rng.uniform(0, 6))
    return np.stack([0.8 * r * np.cos(angle), r * np.sin(angle)], 1).astype(np.float32)


def cut(points: Array, turn: float, middle: npt.ArrayLike, half: npt.ArrayLike) -> Array:
    """A smooth closed outline through the points, rotated, then stretched to fill a box."""
    t = np.arange(10, dtype=np.float32)[None, :, None] / 10
    a, b, c, d = (np.roll(points, k, 0)[:, None, :] for k in (1, 0, -1, -2))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    turned = curve.reshape(-1, 2) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    low, high = turned.min(0), turned.max(0)
    return np.asarray(middle + (turned - (low + high) / 2) / (high - low) * 2 * np.asarray(half), np.float32)


class Collage:
    """Papers pasted on each other, as palette indices. `paper` is supersampled; `proof` is not, and adds 8 for motifs."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.used = rng, [0] * len(PAPERS)
        self.paper, self.proof = Image.new("L", (WIDTH * FINE, HEIGHT * FINE)), Image.new("L", (WIDTH, HEIGHT))

    def colour(self, under: list[int]) -> int:
        """A rarely used colour that contrasts with all colours under the shape."""
        gaps = [min(float(np.abs(PAPERS[c] - PAPERS[u]).sum()) for u in under) for c in range(len(PAPERS))]
        fit = [c for c, gap in enumerate(gaps) if gap > 0.8] or [int(np.argmax(gaps))]
        chosen = min(fit, key=lambda c: self.used[c] + float(self.rng.uniform(0, 2)))
        self.used[chosen] += 1
        return chosen

    def under(self, outline: Array) -> list[int]:
        """The colours of the sheets under an outline; none if it is close to a motif."""
        mask = Image.new("1", (WIDTH, HEIGHT))
        polygon(mask, outline.mean(0) + (outline - outline.mean(0)) * 1.25, 1)
        counts = np.bincount(np.asarray(self.proof)[np.asarray(mask)], minlength=9)
        return [] if counts[8:].any() else [int(c) for c in np.flatnonzero(counts > 0.03 * counts.sum())]

    def paste(self, outline: Array, colour: int, motif: int = 8) -> None:
        """Pastes a motif, or a sheet if `motif` is 0."""
        polygon(self.paper, outline, colour, FINE)
        polygon(self.proof, outline, colour + motif)


def panels(rng: np.random.Generator) -> list[tuple[Array, Array, int]]:
    """Centres, half sizes and colours of sheets in columns; neighbours differ in colour."""
    deck, out = rng.permutation(len(PAPERS)), []
    for column, (left, right) in enumerate(pairwise(np.linspace(-20, WIDTH + 20, 6) + rng.uniform(-18, 18, 6))):
        rows = int(rng.integers(4, 7))
        for row, (top, bottom) in enumerate(pairwise(np.linspace(-16, HEIGHT + 16, rows) + rng.uniform(-16, 16, rows))):
            box = np.array([[left + right, top + bottom], [right - left, bottom - top]], np.float32) / 2
            out.append((box[0], box[1], int(deck[(3 * column + 2 * row) % len(deck)])))
    return out


def cutouts() -> Image.Image:
    """Sheets of coloured paper, each with a large cut-out motif, and small motifs in the gaps."""
    art = Collage(rng := np.random.default_rng(1947))
    boxes = panels(rng)
    for middle, half, ground in boxes:
        corners = middle + (half + 4) * [[-1, -1], [1, -1], [1, 1], [-1, 1]] + rng.uniform(-6, 6, (4, 2))
        art.paste(np.asarray(corners, np.float32), ground, motif=0)
    for k, (middle, half, ground) in enumerate(boxes):
        turn, colour = rng.uniform(-0.35, 0.35) + np.pi / 2 * float(half[0] > half[1]) + np.pi * rng.integers(2), ground
        for shape, size in (((frond, 0.94),), ((burst, 0.96), (pebble, 0.28)), ((leaf, 0.98), (frond, 0.6)))[k % 3]:
            colour = art.colour([colour])
            art.paste(cut(shape(rng), turn, middle, half * size), colour)
    for size in np.geomspace(30, 7, 2000):
        shape = (leaf, leaf, pebble, burst, frond)[int(rng.integers(5 if size > 13 else 3))]
        half, turn = size * np.array([1, rng.uniform(0.5, 1)]), rng.choice([0, np.pi / 2]) + rng.normal(0, 0.5)
        outline = cut(shape(rng), turn, rng.uniform((0, 0), (WIDTH, HEIGHT)), half)
        if under := art.under(outline):
            art.paste(outline, art.colour(under))
    return finished(PAPERS[np.asarray(art.paper)] * (1 + 0.007 * kit.noise(rng, *art.paper.size, 7, 7)[..., None]))


# Etching. Clouds have a centre (x, y) and a size.
FOCUS, HORIZON, EYE = 860.0, 112.0, 4.4  # camera: focal length in pixels, row of the horizon, eye height
HATCHES = ((0.2, -0.12, 8, 13), (0, 0.06, 4.4, 90), (1.1, 0.4, 4.2, 60), (-0.7, 0.6, 4, 46), (0.5, 0.8, 3.3, 36))
"""Layers of lines: angle to the form, minimum tone, spacing in the lightest tone, and length."""
CLOUDS = ((110, 92, 92), (330, 58, 74), (530, 100, 100), (690, 40, 60), (225, 120, 50), (-10, 30, 60), (420, 128, 44))
STEPS, MARGIN = 48, 32  # samples per line; border of the occupancy raster
DISC = np.indices((45, 45)).reshape(2, -1) - 22


def land(x: Array, z: Array) -> Array:
    """Height of the land at world coordinates."""
    broad = 0.8 * np.sin(0.62 * x + 0.35 * z + 1.0) * np.sin(0.55 * z - 0.2 * x) + 0.45 * np.sin(1.1 * x - 0.5 * z + 2)
    return np.asarray(broad * (0.7 + 0.02 * z) + 0.15 * np.sin(2.3 * x + 1.3 * z) + 0.03 * z, np.float32)


class Plate:
    """The scene as rasters of tone, form direction, distance and part, and the ink on it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.ink = rng, Image.new("L", (WIDTH * FINE, HEIGHT * FINE))
        self.x, self.y = kit.grid(WIDTH * DEEP, HEIGHT * DEEP)
        wave = kit.noise(rng, WIDTH * DEEP, HEIGHT * DEEP, 260, 90)
        self.angle, self.tone = 0.2 * wave, 0.62 - 0.0024 * self.y + 0.1 * wave  # the sky: level waves, darker above
        self.depth, self.part = np.full_like(wave, 1e4), np.zeros_like(wave)

    def clouds(self) -> None:
        """Piles of round puffs."""
        for k, (x, y, size) in enumerate(CLOUDS):
            for _ in range(16):
                dx, dy = self.rng.normal(0, 0.75), self.rng.uniform(-0.62, 0.1)
                r = size * self.rng.uniform(0.28, 0.5) * (1 - 0.25 * abs(dx))
                high, depth = dy * size * (1 - 0.4 * abs(dx)), 9000 - 200 * k - 100 * dy
                self._ball(x + dx * size, y + high, r, r * 0.9, depth, (-0.28, 0.85))

    def hills(self) -> None:
        """Land in perspective, with each field ploughed in its own direction."""
        z, far = self.depth.copy(), np.geomspace(4, 50, 1600).astype(np.float32)
        for j, column in enumerate(self.x[0]):
            rows = HORIZON + FOCUS * (EYE - land((column - WIDTH / 2) * far / FOCUS, far)) / far
            new = rows <= np.minimum.accumulate(rows)  # not hidden behind nearer land
            z[:, j] = np.interp(self.y[:, 0], rows[new][::-1], far[new][::-1], left=1000)
        x, seen = (self.x - WIDTH / 2) * z / FOCUS, z < 900
        h = land(x, z)
        hx, hz = (land(x + 0.02, z) - h) / 0.02, (land(x, z + 0.02) - h) / 0.02
        light = (0.62 * hx + 0.66 + 0.42 * hz) / np.sqrt(hx**2 + hz**2 + 1)
        strip = np.floor((z * 0.8 - 0.3 * x + 0.2 * np.sin(2.1 * x)) / 1.3)
        field = (61 * strip + np.floor((x + 0.25 * np.sin(1.7 * z) + 0.35 * z) / 1.3 + 0.37 * strip)).astype(int) % 4096
        turn, shade = self.rng.uniform(0, np.pi, 4096)[field], self.rng.uniform(-0.2, 0.24, 4096)[field]
        dx, dz = np.cos(turn), np.sin(turn)
        down = -(hx * dx + hz * dz) / z - (EYE - h) * dz / z**2
        self.angle[seen] = np.arctan2(down, dx / z - x * dz / z**2)[seen]
        self.tone[seen], self.depth[seen], self.part[seen] = (0.94 - 1.12 * light + shade)[seen], z[seen], field[seen]

    def trees(self) -> None:
        """Groves of round trees and poplars, the far ones first, each with its shadow."""
        for z in np.sort(self.rng.uniform(5, 40, 900).astype(np.float32))[::-1]:
            across, tall = self.rng.uniform(0, WIDTH), self.rng.choice([1, 1, 1, 1, 2.4])
            r = FOCUS * self.rng.uniform(0.16, 0.34) / z
            x = np.asarray((across - WIDTH / 2) * z / FOCUS)
            foot = float(HORIZON + FOCUS * (EYE - land(x, z)) / z)
            grove = np.sin(1.3 * x + 0.5 * z) + np.sin(0.9 * z - 1.1 * x) > 0.5 and 0 <= foot < HEIGHT
            if grove and abs(self.depth[int(foot * DEEP), int(across * DEEP)] / z - 1) < 0.04:
                rows = slice(int(max(foot - r, 0) * DEEP), int((foot + r) * DEEP))
                away = np.hypot((self.x[rows] - across - 1.3 * r) / (1.6 * r), (self.y[rows] - foot - 0.1 * r) / (0.5 * r))
                self.tone[rows] += 0.5 * (1 - kit.smooth(away, 0.7, 1.1))
                self._ball(across, foot - 0.95 * r * tall, r / tall**0.6, r * tall, float(z) * 0.93, (-0.12, 1.4))

    def _ball(self, x: float, y: float, rx: float, ry: float, depth: float, tones: tuple[float, float]) -> None:
        """A round form lit from the upper left: a tree crown or a puff of cloud."""
        rows = slice(int(max(y - 1.1 * ry, 0) * DEEP), int(max(y + 1.1 * ry, 0) * DEEP))
        dx, dy = (self.x[rows] - x) / rx, (self.y[rows] - y) / ry
        angle = np.arctan2(dy, dx)
        r = np.hypot(dx, dy) / (1 + 0.05 * np.sin(7 * angle + x) + 0.04 * np.sin(13 * angle + y))
        inside = (r < 1) & (self.depth[rows] > depth)
        light = 0.5 - 0.55 * (-0.62 * dx - 0.66 * dy + 0.42 * np.sqrt(np.clip(1 - r**2, 0, 1)))
        self.tone[rows][inside] = (tones[0] + (tones[1] - tones[0]) * light)[inside]
        self.angle[rows][inside] = np.arctan2(dx * ry, -dy * rx)[inside]
        self.depth[rows][inside], self.part[rows][inside] = depth, -16 * np.log(depth)

    def hatch(self, turn: float, least: float, gap: float, length: float) -> None:
        """Lines at an angle to the form wherever the tone exceeds the minimum, more closely spaced in darker areas."""
        wobble = turn + 0.1 * kit.noise(self.rng, WIDTH, HEIGHT, 26, 26)

        def flow(x: Array, y: Array) -> tuple[Array, Array]:
            angle = kit.lookup(self.angle, x, y) + kit.lookup(wobble, x, y)
            return np.cos(angle), np.sin(angle)

        y, x = (np.mgrid[0:HEIGHT:2, 0:WIDTH:2] + self.rng.uniform(0, 1.9, (2, HEIGHT // 2, WIDTH // 2))).astype(np.float32)
        dark = kit.lookup(self.tone, x, y) > least
        spans = (length * self.rng.uniform(0.6, 1.3, np.count_nonzero(dark))).astype(np.float32)
        paths = kit.trace(flow, x[dark], y[dark], spans, STEPS)
        tone, depth, part = (kit.lookup(a, paths[..., 0], paths[..., 1]) for a in (self.tone, self.depth, self.part))
        fit = (tone > least + self.rng.normal(0, 0.05, (len(spans), 1))) & (part == part[:, STEPS // 2, None])
        fit[:, 1:] &= np.abs(np.diff(depth, axis=1)) < 0.04 * depth[:, 1:]
        finer = np.where(depth < 100, 1.45 - 0.24 * np.log(depth), 1) * (1 - 0.36 * kit.smooth(tone, least, 1.0))
        taken = np.zeros((HEIGHT * DEEP + 2 * MARGIN, WIDTH * DEEP + 2 * MARGIN), bool)
        for k, path in enumerate(paths):
            if free := self._free(path, fit[k], gap * finer[k] * DEEP, taken, max(3, 5 * STEPS / float(spans[k]))):
                self._line(path[free], 0.4 + np.clip(tone[k, free], 0, 1))

    def _free(self, path: Array, fit: Mask, room: Array, taken: Mask, least: float) -> slice | None:
        """The central part of a path that is valid and free, unless it is too short; marks its area as taken."""
        i, j = (np.clip(path.T[::-1], -4, [[HEIGHT + 4], [WIDTH + 4]]) * DEEP + MARGIN).astype(int)
        bad, middle = np.flatnonzero(~fit | taken[i, j]), STEPS // 2
        low, high = int(np.max(bad[bad <= middle], initial=-1)) + 1, int(np.min(bad[bad >= middle], initial=STEPS + 1))
        if high - low <= least:
            return None
        points, offsets = np.nonzero(np.hypot(*DISC) <= room[low:high, None])
        taken[i[low:high][points] + DISC[0][offsets], j[low:high][points] + DISC[1][offsets]] = True
        return slice(low, high)

    def _line(self, path: Array, width: Array) -> None:
        """One line of varying width that tapers at both ends."""
        u = np.linspace(0, 1, len(path), dtype=np.float32)
        ends = 0.35 + 0.65 * kit.smooth(np.minimum(u, 1 - u), 0, 0.22) + 0.12 * np.sin(u * 12 + path[0, 0])
        along = np.gradient(path, axis=0)
        side = along[:, ::-1] * [-1, 1] * (width * ends / 2 / np.hypot(*along.T))[:, None]
        polygon(self.ink, np.concatenate([path + side, (path - side)[::-1]]), 255, FINE)

    def outline(self) -> None:
        """Lines of uneven weight between the parts and at occlusion edges."""
        jump = np.zeros(self.part.shape, np.uint8)
        for plane in (self.part, np.log(self.depth) * 16):
            jump[:, 1:] |= np.abs(np.diff(plane, axis=1)) > 0.5
            jump[1:] |= np.abs(np.diff(plane, axis=0)) > 0.5
        soft = Image.fromarray(jump * 255).resize(self.ink.size, Image.Resampling.BILINEAR)
        level = 0.26 + 0.07 * np.clip(kit.noise(self.rng, *self.ink.size, 90, 90), -2, 2)
        line = np.asarray(soft.filter(ImageFilter.GaussianBlur(2.2)), np.float32) > 255 * level
        self.ink.paste(255, mask=Image.fromarray(line))


def etching() -> Image.Image:
    """Hills, trees and clouds in hatched lines, up to four layers of cross-hatching in dark areas."""
    plate = Plate(rng := np.random.default_rng(1650))
    plate.clouds()
    plate.hills()
    plate.trees()
    for hatch in HATCHES:
        plate.hatch(*hatch)
    plate.outline()
    film = 0.012 * kit.noise(rng, *plate.ink.size, 8, 8)
    ink = np.clip(np.asarray(plate.ink, np.float32) / 255 * (0.95 + 3 * film) + film, 0, 1)[..., None]
    return finished(CREAM * (1 - ink) + INK * ink)


# Watercolour: teal, ochre, rose, indigo, green and violet, as optical densities, and the granulation of each.
PIGMENTS = -np.log(kit.rgb("1f9f9c", "eda728", "e85f85", "34559f", "86b04a", "8a5fb5"))
GRAINY = np.array([0.14, 0.14, 0.08, 0.2, 0.14, 0.18], np.float32)
PAIRS = ((4, 1), (0, 4), (0, 3), (3, 0), (5, 3), (2, 5), (2, 1), (1, 2), (1, 1))
"""Pairs of pigments that may mix on one brush; neighbours in the list harmonize."""
MARKS = ((225, 60, 130, 0.28), (196, 50, 88, 0.42), (196, 150, 37, 0.5), (160, 64, 15, 0.75), (80, 2, 4.5, 0.8))
"""Layers of brush marks: distance, length and half-width in the sheet's pixels, and load."""


class Sheet:
    """Rough paper and the optical densities on it. Densities add up where washes overlap."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.size = rng, (WIDTH * DEEP, HEIGHT * DEEP)
        self.grain = 0.8 * kit.noise(rng, *self.size, 2.4, 2.4) + 0.6 * kit.noise(rng, *self.size, 5, 5)
        self.density = np.zeros((*self.grain.shape, 3), np.float32)

    def dab(self, spine: Array, radius: Array, pair: tuple[int, int], load: float, wet: float) -> None:
        """One brush mark: discs along a spine, with an edge that bleeds and dries."""
        pad = radius[:, None] + 14 + 40 * wet
        low = np.maximum((spine - pad).min(0), 0).astype(int)
        high = np.minimum((spine + pad).max(0), self.size).astype(int)
        part = slice(low[1], high[1]), slice(low[0], high[0])
        y, x = np.mgrid[part].astype(np.float32)
        inside = np.max([r - np.hypot(x - a, y - b) for (a, b), r in zip(spine, radius, strict=True)], axis=0)
        self.density[part] += self._wash(np.asarray(inside, np.float32), self.grain[part], pair, wet) * load

    def _wash(self, inside: Array, grain: Array, pair: tuple[int, int], wet: float) -> Array:
        """The densities (rows, width, 3) of a wash whose edge is where `inside` is 0."""

        def noise(cell: float) -> Array:
            return kit.noise(self.rng, inside.shape[1], inside.shape[0], cell, cell)

        damp = np.clip(kit.smooth(noise(110), 0.7, 1.8) + wet, 0, 1)  # the wash bleeds softly there
        edge = inside + 3.5 * noise(80) + 1.2 * noise(26) + 0.4 * noise(11) + damp * (9 * noise(40) + 6 * noise(16))
        cover = kit.smooth(edge + 0.35 * grain, -0.5 - 14 * damp, 1.5 + 36 * damp)
        depth = np.clip(edge, 0, None)
        rim = (1 - damp) * kit.smooth(noise(60), -1.2, 1.0) * (1.25 * np.exp(-depth / 2.4) + 0.35 * np.exp(-depth / 14))
        body = np.clip(0.62 + 0.2 * noise(90) + 0.1 * noise(30), 0.25, 1.3) * self._blooms(inside, noise)
        mix = kit.smooth(0.8 * noise(120) + 0.25 * noise(30), -0.8, 0.8)[..., None]
        colour, rough = (a[pair[0]] * (1 - mix) + a[pair[1]] * mix for a in (PIGMENTS, GRAINY[:, None]))
        settled = (cover * (body + rim))[..., None] * np.clip(1 + rough * grain[..., None], 0.1, 3)
        return np.asarray(settled * colour, np.float32)

    def _blooms(self, inside: Array, noise: Callable[[float], Array]) -> Array:
        """Backruns: drops of water that push the pigment outward to a crinkled line."""
        factor = np.ones_like(inside)
        where = np.argwhere(inside > 0.45 * inside.max())
        i, j = np.indices(inside.shape, np.float32)
        for _ in range(int(self.rng.integers(0, 4)) if inside.max() > 22 else 0):
            ci, cj = where[int(self.rng.integers(len(where)))]
            size = float(inside.max() * self.rng.uniform(0.3, 0.7))
            beyond = np.hypot(i - ci, j - cj) - size + size * (0.2 * noise(size) + 0.09 * noise(size / 2.5)) + 1.6 * noise(7)
            factor *= 1 - 0.7 * kit.smooth(-beyond, -1, size * 0.5) + 0.8 * np.exp(-np.abs(beyond) / np.where(beyond > 0, 2, 6))
        return factor

    def layer(self, lean: Array, hue: Array, pitch: int, length: int, fat: float, load: float) -> None:
        """Brush marks all over the sheet that follow the direction and hue rasters; the widest bleed most."""
        y, x = np.mgrid[0 : self.size[1] + pitch / 2 : pitch, 0 : self.size[0] + pitch / 2 : pitch]
        t = np.linspace(-1, 1, 24, dtype=np.float32)
        spots = np.stack([x.ravel(), y.ravel()], 1) + self.rng.uniform(-0.4, 0.4, (x.size, 2)) * pitch
        for spot in self.size - np.abs(self.size - np.abs(self.rng.permutation(spots))):  # reflected at the edges
            turn, shift = (float(kit.lookup(plane, *(spot[:, None] / DEEP))[0]) for plane in (lean, hue))
            angle = 1.2 * turn + self.rng.normal(0, 0.4) + self.rng.normal(0, 0.3) * t
            spine = spot + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), 0) * length / 12
            radius = fat * self.rng.uniform(0.6, 1.2) * np.clip(1 - (t + 0.15) ** 2 * 0.74, 0.02, 1)
            pair = PAIRS[int(4.5 + 2.6 * shift + self.rng.normal(0, 1)) % len(PAIRS)]
            self.dab(spine, radius, pair, load * self.rng.uniform(0.6, 1.4), 0.6 * (fat > 100))


def watercolor() -> Image.Image:
    """Soft grounds, round washes, leaves and drops, light to dark."""
    sheet = Sheet(rng := np.random.default_rng(14))
    lean, hue = kit.noise(rng, *sheet.size, 300, 300), kit.noise(rng, *sheet.size, 200, 200)
    for mark in MARKS:
        sheet.layer(lean, hue, *mark)
    light = 1 + 0.012 * (np.roll(sheet.grain, 1, 0) - sheet.grain)[..., None]
    return finished(WHITE * np.exp(-sheet.density / (1 + 0.15 * sheet.density)) * light)


def main() -> None:
    """Draws every picture into a folder."""
    parser = argparse.ArgumentParser(description="Draw the sample style pictures.")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent, metavar="DIR")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for draw in (cutouts, etching, watercolor):
        path = output / f"{draw.__name__}.jpg"
        draw().save(path, quality=kit.QUALITY, optimize=True)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
