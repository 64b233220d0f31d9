"""Converts jobs and pictures between messages of plain bytes and the engine's tensors."""

from __future__ import annotations

import torch

from impasto_engine import painting
from impasto_engine.objective import to_pixels
from impasto_server.domain.job import JobSpec, StylePicture
from impasto_server.domain.pictures import Plane, Raster, content_of


def to_engine(spec: JobSpec) -> painting.Job:
    """Return a job in the engine's form.

    Raises:
        PictureLost: If the file of a picture is unusable.
    """
    return painting.Job(
        spec.height,
        spec.width,
        pixels(spec.content) if spec.content else None,
        tuple(_style(style) for style in spec.styles),
        spec.parameters,
        _mask(spec.mask),
        pixels(spec.init_image) if spec.init_image else None,
    )


def _style(style: StylePicture) -> painting.Style:
    # Statistics of a masked picture are not cached: masks are seldom used twice.
    digest = "" if style.mask else style.digest
    return painting.Style(pixels(style.picture), style.weight, digest, _mask(style.mask), _mask(style.region))


def _mask(plane: Plane | None) -> torch.Tensor | None:
    if plane is None:
        return None
    return torch.frombuffer(bytearray(content_of(plane.values, plane.size)), dtype=torch.uint8).view(plane.height, plane.width)


def pixels(picture: Raster) -> torch.Tensor:
    """Return a picture's pixels: (height, width, 3), uint8, on the CPU."""
    return torch.frombuffer(bytearray(content_of(picture.rgb, picture.size)), dtype=torch.uint8).view(
        picture.height, picture.width, 3
    )


def raster(canvas: torch.Tensor) -> Raster:
    """Return a canvas, (3, height, width) in [0, 1], as a picture."""
    values = to_pixels(canvas)
    return Raster(values.shape[1], values.shape[0], values.numpy().tobytes())
