"""Everything a request can get wrong, in one place; below it, requests are right."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from impasto_engine.parameters import Parameters, Violation, violations, without_content
from impasto_server import images
from impasto_server.config import ServerConfig
from impasto_server.jobs import JobSpec, OutputOptions, Raster, StylePicture, invalid

MAX_REQUEST_ID = 128
MAX_PREVIEW_PX = 1024
MIN_PREVIEW_PX = 16
MAX_PRIORITY = 10
MAX_DECODERS = 2
"""Pictures of one request that are decoded at once: each may take a lot of memory."""
MAX_SECONDS = 30 * 86400.0


@dataclass(frozen=True)
class Draft:
    """A job as the client wrote it, out of protobuf but unchecked.

    Attributes:
        content: The encoded file, or None.
        styles: Encoded file and weight of each style.
        parameters: With the preset filled in.
        init_given: Whether the client chose the start itself.
        output: How pictures are encoded for the client.
        found: What converting the message already found wrong.
        priority: Higher goes first.
        time_limit_s: From acceptance to the end.
        return_best: Whether the picture as it stands is wanted then.
        ttl_s: How long the job is kept after its end.
    """

    content: bytes | None
    styles: tuple[tuple[bytes, float], ...]
    parameters: Parameters
    init_given: bool
    output: OutputOptions
    found: tuple[Violation, ...] = ()
    digest: str = field(default="", compare=False)
    priority: int = 0
    time_limit_s: float | None = None
    return_best: bool = False
    ttl_s: float | None = None


def check_numbers(draft: Draft, request_id: str, layers: Collection[str], config: ServerConfig) -> Draft:
    """Check everything but the pictures, which are costly to open.

    Returns:
        The draft, with the start chosen where the client left it open.

    Raises:
        ServiceError: INVALID_ARGUMENT that names every field that is wrong.
    """
    found = list(draft.found)
    parameters = draft.parameters
    if draft.content is None and not draft.init_given:
        parameters = without_content(parameters)
    if len(request_id) > MAX_REQUEST_ID or not request_id.isprintable():
        found.append(Violation("request_id", f"must be at most {MAX_REQUEST_ID} printable characters"))
    if len(draft.styles) > config.max_styles:
        found.append(Violation("styles", f"at most {config.max_styles} are taken, got {len(draft.styles)}"))
    if draft.content is None and not draft.styles:
        found.append(Violation("content", "give a content image, styles, or both"))
    else:
        found += [
            Violation(f"parameters.{violation.field}", violation.description)
            for violation in violations(
                parameters,
                layers,
                config.max_size_px,
                has_content=draft.content is not None,
                styles=len(draft.styles),
            )
        ]
    for index, (_, weight) in enumerate(draft.styles):
        if not (math.isfinite(weight) and 0 < weight <= 1e6):
            found.append(Violation(f"styles[{index}].weight", f"must be above 0 and at most 1e6, got {weight:g}"))
    if abs(draft.priority) > MAX_PRIORITY:
        found.append(Violation("priority", f"must be from {-MAX_PRIORITY} to {MAX_PRIORITY}, got {draft.priority}"))
    for name, seconds in (("time_limit", draft.time_limit_s), ("ttl", draft.ttl_s)):
        if seconds is not None and not 0 < seconds <= MAX_SECONDS:
            found.append(Violation(name, f"must be above 0 s and at most {MAX_SECONDS:g} s, got {seconds:g} s"))
    found += _output_violations(draft.output)
    _raise(found)
    return replace(draft, parameters=parameters)


def open_pictures(draft: Draft, config: ServerConfig) -> JobSpec:
    """Open and resize a checked draft's pictures. Takes a while; run it on a thread.

    Raises:
        ServiceError: INVALID_ARGUMENT that names every picture that cannot be used.
    """
    found: list[Violation] = []
    size_px = draft.parameters.size_px
    size: tuple[int, int] | None = None
    content: Raster | None = None
    files = [data for data, _ in draft.styles] + ([draft.content] if draft.content is not None else [])
    with ThreadPoolExecutor(MAX_DECODERS) as pool:  # Pillow decodes outside the interpreter's lock
        opening = [pool.submit(images.open_image, data, config.max_image_pixels) for data in files]
    if draft.content is not None:
        try:
            opened = opening[-1].result()
            size = images.canvas_size(opened, size_px)
            content = images.fit(opened, *size)
        except images.ImageError as error:
            found.append(Violation("content", str(error)))
    styles = []
    for index, (_, weight) in enumerate(draft.styles):
        try:
            opened = opening[index].result()
        except images.ImageError as error:
            found.append(Violation(f"styles[{index}].image", str(error)))
            continue
        style_size = images.canvas_size(opened, size_px)
        size = size or style_size
        picture = images.fit(opened, *style_size)
        styles.append(StylePicture(picture, weight, hashlib.sha256(picture.rgb).hexdigest()))
        found += _too_thin(f"styles[{index}].image", style_size)
    if size is not None:
        found += _too_thin("parameters.size_px", size)
    _raise(found)
    if size is None:
        raise invalid(("content", "give a content image, styles, or both"))
    return JobSpec(
        size[0],
        size[1],
        content,
        tuple(styles),
        draft.parameters,
        draft.output,
        draft.priority,
        draft.time_limit_s,
        draft.return_best,
        draft.ttl_s,
    )


def _too_thin(name: str, size: tuple[int, int]) -> list[Violation]:
    if min(size) >= images.MIN_CANVAS_PX:
        return []
    text = f"gives {size[0]} x {size[1]} pixels; the network needs at least {images.MIN_CANVAS_PX} on either side"
    return [Violation(name, text)]


def _output_violations(output: OutputOptions) -> list[Violation]:
    found = []
    if not 1 <= output.quality <= 100:
        found.append(Violation("output.quality", f"must be from 1 to 100, got {output.quality}"))
    if output.preview_every_steps < 0:
        text = f"must be 0 for none, or more; got {output.preview_every_steps}"
        found.append(Violation("output.preview_every_steps", text))
    if not MIN_PREVIEW_PX <= output.preview_size_px <= MAX_PREVIEW_PX:
        text = f"must be from {MIN_PREVIEW_PX} to {MAX_PREVIEW_PX}, got {output.preview_size_px}"
        found.append(Violation("output.preview_size_px", text))
    return found


def _raise(found: list[Violation]) -> None:
    if found:
        raise invalid(*((violation.field, violation.description) for violation in found))
