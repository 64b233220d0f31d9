"""Paint every photo of a folder in every style of another; a photo that cannot be painted does not stop the others.

`impasto batch PHOTOS --style STYLES -o OUT` does this and goes on after interruptions; this shows how to do it in a program.

python many_pictures.py PHOTOS STYLES OUT
"""

import itertools
import sys
from pathlib import Path

import impasto


def main(photos: Path, styles: Path, out: Path) -> int:
    """Paint all pairs; return how many failed."""
    out.mkdir(exist_ok=True)
    pairs = list(itertools.product(sorted(photos.iterdir()), sorted(styles.iterdir())))
    failed = 0
    with impasto.Client() as client:
        found = client.map(
            [photo for photo, _ in pairs],
            [style for _, style in pairs],
            ordered=False,  # as they are ready
            errors="return",  # as values: the others go on
            progress=True,
            size_px=256,
            steps=50,
            labels={"example": "many_pictures"},  # impasto jobs list --label example=many_pictures
        )
        for item in found:
            photo, style = pairs[item.index]
            if item.error is not None:
                failed += 1
                print(f"{photo.name} with {style.name}: {item.error}")
                continue
            item.result.save(out / f"{photo.stem}-{style.stem}.png")
    print(f"{len(pairs) - failed} of {len(pairs)} pictures painted")
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(*map(Path, sys.argv[1:4]))))
