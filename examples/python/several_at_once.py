"""Paint a photo in several styles at once with the async client; the first error cancels the others.

python several_at_once.py PHOTO STYLE...
"""

import asyncio
import sys
from pathlib import Path

import impasto


async def main(photo: str, styles: list[str]) -> None:
    """Paint with the given files."""
    async with impasto.AsyncClient() as client:
        uploaded = await client.upload(photo)  # sent once, used by every job

        async def paint(style: str) -> None:
            result = await client.stylize(uploaded, style, size_px=256, steps=50)
            path = result.save(f"{Path(photo).stem}-{Path(style).stem}.png")
            print(f"{path}: loss {result.losses.total:.4f}")

        async with asyncio.TaskGroup() as group:
            for style in styles:
                group.create_task(paint(style))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
