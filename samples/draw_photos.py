"""Draw the sample photographs of the page: a valley in the evening, and fruit on a table. Run it to draw them again.

They are drawn, not taken: nobody else's picture has to be shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

HERE = Path(__file__).parent
WIDTH, HEIGHT = 720, 540
Picture = np.ndarray


def noise(rng: np.random.Generator, cells: int, octaves: int, stretch: float = 1.0) -> Picture:
    """Return smooth noise in [0, 1] as [height, width]."""
    total, weight = np.zeros((HEIGHT, WIDTH)), 0.0
    for octave in range(octaves):
        across, down = cells * 2**octave, max(2, int(cells * 2**octave * stretch))
        small = Image.fromarray(rng.random((down, across)).astype(np.float32))
        total += np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / 2**octave
        weight += 0.5**octave
    return np.clip(total / weight, 0, 1)


def blend(low: Picture, high: Picture, amount: Picture) -> Picture:
    """Mix two pictures or colours by an amount of [height, width]."""
    return low + (high - low) * np.clip(amount, 0, 1)[..., None]


def colour(*values: int) -> Picture:
    return np.array(values) / 255


def ridge(rng: np.random.Generator, base: float, rise: float, roughness: int) -> Picture:
    """Return the height of a line of hills at each column, in pixels from the top."""
    x, line = np.linspace(0, 1, WIDTH), np.zeros(WIDTH)
    for octave in range(roughness):
        knots = rng.random(4 * 2**octave + 2)
        line += np.interp(x * (len(knots) - 1), np.arange(len(knots)), knots) / 1.9**octave
    return base - rise * (line - line.min()) / np.ptp(line)


def valley(rng: np.random.Generator) -> Picture:
    """Return a lake between hills, with a low sun."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    shore = 0.66 * HEIGHT
    sky = blend(colour(58, 92, 150), colour(252, 196, 140), (y / shore) ** 1.4)
    sun = np.hypot(x - 0.68 * WIDTH, y - 0.4 * HEIGHT)
    sky = blend(sky, colour(255, 236, 190), np.exp(-((sun / 110) ** 2)))
    sky = blend(sky, colour(255, 250, 225), 1 / (1 + np.exp((sun - 24) / 1.6)))
    clouds = noise(rng, 4, 5, 2.6)
    sky = blend(sky, colour(255, 224, 205), np.clip((clouds - 0.54) * 4, 0, 0.75) * (1 - y / shore))
    scene, texture = sky, noise(rng, 24, 4)
    hills = ((0.55, 0.30, 6, (128, 130, 160)), (0.60, 0.22, 6, (88, 104, 122)), (0.66, 0.17, 7, (52, 80, 70)))
    for base, rise, roughness, tint in hills:
        line = ridge(rng, base * HEIGHT, rise * HEIGHT, roughness)
        slope = np.gradient(line)[None, :]
        lit = 0.85 + 0.5 * (texture - 0.5) - 0.10 * np.tanh(slope * 1.2)
        haze = np.clip((y - line) / (0.3 * HEIGHT), 0, 1)[..., None] * 0.25
        scene = np.where(
            (y > line)[..., None], colour(*tint) * lit[..., None] * (1 - haze) + colour(230, 190, 160) * haze, scene
        )
    mirrored = scene[
        np.clip((2 * shore - y + 5 * np.sin(y * 0.9) * (y - shore) / 160).astype(int), 0, HEIGHT - 1), x.astype(int)
    ]
    ripples = noise(rng, 10, 4, 8.0)
    water = mirrored * 0.72 + colour(30, 60, 84) * 0.22 + ((ripples - 0.5) * 0.16)[..., None]
    scene = np.where((y > shore)[..., None], water, scene)
    bank = ridge(rng, 0.99 * HEIGHT, 0.17 * HEIGHT, 6) + 0.10 * HEIGHT * np.linspace(-0.6, 0.8, WIDTH)
    grass = colour(62, 84, 40) * (0.55 + 0.9 * noise(rng, 60, 3))[..., None]
    scene = np.where((y > bank)[..., None], grass, scene)
    for column, size in ((62, 215), (128, 165), (18, 250), (196, 118), (688, 128), (640, 92)):
        foot = bank[column] + 14
        height = foot - y
        width = size * 0.25 * (1 - height / size) * (0.65 + 0.35 * np.abs(np.sin(height * 0.16 + column)))
        inside = (height > 0) & (height < size) & (np.abs(x - column) < width)
        shade = 0.4 + 0.5 * (x - column + size * 0.25) / (size * 0.5) + 0.4 * (texture - 0.5)
        scene = np.where(inside[..., None], colour(48, 78, 52) * shade[..., None], scene)
    return scene


def sphere(scene: Picture, at: tuple[float, float], radius: float, tint: Picture, bumps: Picture) -> Picture:
    """Return the scene with a lit ball and its shadow."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    u, v = (x - at[0]) / radius, (y - at[1]) / radius
    shadow = np.exp(-((((u - 0.75) / 1.25) ** 2 + ((v - 0.86) / 0.32) ** 2) ** 1.3))
    scene = blend(scene, scene * 0.32, shadow)
    depth = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    light = np.clip(-0.55 * u - 0.6 * v + 0.58 * depth, 0, 1)
    shine = np.clip(-0.42 * u - 0.5 * v + 0.76 * depth, 0, 1) ** 42
    skin = (
        tint * (0.25 + 0.9 * light + 0.25 * (bumps - 0.5))[..., None]
        + colour(120, 60, 30) * (0.12 * np.clip(v, 0, 1))[..., None]
    )
    edge = np.clip((1 - np.hypot(u, v)) * radius, 0, 1)
    return blend(scene, skin + shine[..., None] * 0.75, edge)


def fruit(rng: np.random.Generator) -> Picture:
    """Return fruit on a striped cloth before a wall."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    table = 0.56 * HEIGHT
    wall = blend(colour(74, 96, 104), colour(176, 180, 160), 1.1 - np.hypot(x / WIDTH - 0.15, y / HEIGHT - 0.1))
    wall = wall * (0.9 + 0.25 * noise(rng, 8, 5))[..., None]
    depth = np.clip((y - table) / (HEIGHT - table), 1e-3, 1)
    stripes = 0.5 + 0.5 * np.tanh(6 * np.sin((x - WIDTH / 2) / (0.45 + depth) * 0.045 + 0.25 * np.sin(y * 0.05)))
    cloth = (
        blend(colour(222, 206, 180), colour(150, 66, 58), stripes) * (0.62 + 0.5 * noise(rng, 40, 3) * depth + 0.1)[..., None]
    )
    scene = np.where((y > table)[..., None], cloth, wall)
    scene = blend(scene, scene * 0.55, np.exp(-(((y - table) / 9) ** 2)) * (y > table))
    bumps = noise(rng, 70, 3)
    balls = (
        (470, 250, 92, (214, 112, 30)), (300, 262, 84, (196, 44, 40)), (392, 330, 78, (226, 172, 50)),
        (205, 362, 66, (128, 156, 50)), (560, 372, 62, (104, 40, 84)), (322, 420, 44, (206, 60, 52)),
        (468, 428, 48, (232, 140, 42)),
    )  # fmt: skip
    for across, down, radius, tint in balls:
        scene = sphere(scene, (across, down), radius, colour(*tint), bumps)
    for across, down, lean in ((300, 180, 0.5), (472, 160, -0.4), (205, 298, 0.7)):
        stem = np.abs(x - across - lean * (down + 22 - y)) < 2.6
        scene = np.where((stem & (np.abs(y - down - 8) < 18))[..., None], colour(72, 52, 30), scene)
    return scene


def main() -> None:
    for name, draw, seed in (("valley", valley, 11), ("fruit", fruit, 4)):
        rng = np.random.default_rng(seed)
        scene = draw(rng) + rng.normal(0, 0.012, (HEIGHT, WIDTH, 1))
        image = Image.fromarray((np.clip(scene, 0, 1) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
        image.save(HERE / f"photo-{name}.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
