"""Paint the README's pictures: the sample styles over scikit-image's photographs, with the defaults at 512 px.

Run by `make docs-pictures`. The pictures keep their metadata: `impasto show` says what made them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import skimage

import impasto

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.conftest import ServerProcess  # noqa: E402

PHOTOS = Path(skimage.__file__).parent / "data"
PICTURES = ROOT / "docs/pictures"
PAIRS = [
    ("chelsea.png", "cutouts", "style"),
    ("coffee.png", "mosaic", "style"),
    ("rocket.jpg", "swirls", "style"),
    ("motorcycle_left.png", "etching", "style"),
    ("astronaut.png", "embers", "style"),
    ("coffee.png", "swirls", "luminance"),
]


def main() -> int:
    """Paint the six pictures."""
    server = ServerProcess("--weights", "imagenet-wheel", "--data-dir", ":memory:")
    try:
        with impasto.Client(server.address) as client:
            for photo, style, color in PAIRS:
                parts = (photo.split(".")[0].split("_")[0], style, *(["luminance"] if color == "luminance" else []))
                target = PICTURES / f"{'-'.join(parts)}.jpg"
                result = client.stylize(
                    PHOTOS / photo, ROOT / f"samples/{style}.jpg", size_px=512, color=color, format="jpeg", quality=85
                )
                result.save(target)
                print(f"{target.name}: {len(result.data) // 1000} kB, {result.timings.optimize_s:.0f} s", flush=True)
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
