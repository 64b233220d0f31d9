"""Small pictures of results and samples."""

from __future__ import annotations

import io

from PIL import Image

QUALITY = 82


def shrunk(data: bytes, side_px: int) -> bytes:
    """Return a picture as a JPEG whose longer side is at most as given, without metadata."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (side_px, side_px))
        small = image.convert("RGB")
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    small.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


KINDS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


def media_type(head: bytes) -> str:
    """Return the media type of a picture by its first bytes; anything else is never shown as a page."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((name for start, name in KINDS if head.startswith(start)), "application/octet-stream")
