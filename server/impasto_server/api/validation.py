"""All validation of requests, in one place; other modules get valid requests only."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import ImageChops
from PIL.Image import Image, frombytes

from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.parameters import Parameters, Pooling, Violation, fitted, settled, violations, without_content
from impasto_server.config import ServerConfig
from impasto_server.domain import labels
from impasto_server.domain.errors import invalid
from impasto_server.domain.job import JobSpec, OutputOptions, Source, StylePicture
from impasto_server.domain.pictures import Plane, Raster, content_of
from impasto_server.pictures import decoders as decoding
from impasto_server.pictures import images
from impasto_server.webhooks.addresses import wrong_with
from impasto_server.workers.messages import Inspect

MAX_REQUEST_ID = 128
MAX_FILTERS = 64
SHOWN_FILTERS = 5
INSPECTION_PX, MAX_INSPECTION_PX = 256, 1024
MAX_PREVIEW_PX = 1024
MIN_PREVIEW_PX = 16
MAX_PRIORITY = 10
LARGE_PIXELS = 16_000_000
"""Larger pictures are opened one at a time by all decoders together: each may briefly take 15 bytes per pixel."""
REQUEST_PIXELS = 4
"""Limit of the pixels of all pictures in a request, as a multiple of the limit of one picture."""
MAX_SECONDS = 30 * 86400.0


@dataclass(frozen=True)
class File:
    """A picture's file as the client sent it, or its path if it was uploaded, with its name if the client sent one."""

    data: bytes | Path = field(repr=False)
    name: str = ""

    def read(self) -> bytes:
        """Return the file.

        Raises:
            ImageError: If it was uploaded and no longer exists.
        """
        if isinstance(self.data, bytes):
            return self.data
        try:
            return self.data.read_bytes()
        except OSError as error:
            raise images.ImageError(f"cannot be read on the server: {error.strerror}; upload it again") from None

    def rejected(self, reason: object) -> str:
        """Return why it is unusable, with its name if it has one: a field's name alone does not say which of many files."""
        return f"{reason}: {self.name}" if self.name else str(reason)


@dataclass(frozen=True)
class StyleFiles:
    """One style as the client sent it."""

    picture: File
    weight: float = 1.0
    mask: File | None = None
    region: File | None = None


@dataclass(frozen=True)
class Draft:
    """A job as the client wrote it, converted from protobuf but not checked.

    Attributes:
        content: Picture to repaint, or None.
        styles: The styles.
        parameters: With the preset applied.
        preset: Name of that preset.
        given: Names of the parameters that the client set.
        output: How pictures are encoded for the client.
        found: Problems found while converting the message.
        digest: Hash of the message.
        priority: Higher runs first.
        time_limit_s: Longest time from acceptance to the end.
        return_best: Whether the current picture is wanted then.
        ttl_s: How long the job is kept after its end.
        mask: Part of the content that is painted, or None for all.
        init_image: Picture that the canvas starts from, or None.
        labels: Labels by which its owner finds it.
        webhook: URL that is told of its end; empty for none.
    """

    content: File | None
    styles: tuple[StyleFiles, ...]
    parameters: Parameters
    preset: str
    given: frozenset[str]
    output: OutputOptions
    found: tuple[Violation, ...] = ()
    digest: str = field(default="", compare=False)
    priority: int = 0
    time_limit_s: float | None = None
    return_best: bool = False
    ttl_s: float | None = None
    mask: File | None = None
    init_image: File | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    webhook: str = field(default="", repr=False)

    def files(self) -> dict[str, File]:
        """Return every file by its request field."""
        named: list[tuple[str, File | None]] = [("content", self.content)]
        for index, style in enumerate(self.styles):
            named += [
                (f"styles[{index}].image", style.picture),
                (f"styles[{index}].mask", style.mask),
                (f"styles[{index}].region", style.region),
            ]
        named += [("mask", self.mask), ("init_image", self.init_image)]
        return {name: file for name, file in named if file is not None}


def check_numbers(draft: Draft, request_id: str, network_id: Callable[[str], str], config: ServerConfig) -> Draft:
    """Check everything but the pictures, which are expensive to open.

    Args:
        draft: What to check.
        request_id: The client's id of the request.
        network_id: Returns a network's full name, or raises a ValueError that lists the networks.
        config: The server's limits.

    Returns:
        The draft, with defaults filled in: the start, the network, its layers, sizes that follow from others.

    Raises:
        ServiceError: INVALID_ARGUMENT that lists every invalid field.
    """
    found = list(draft.found)
    parameters = settled(draft.parameters)
    if "init" not in draft.given:
        if draft.init_image is not None:
            parameters = replace(parameters, init="image")
        elif draft.content is None:
            parameters = without_content(parameters)
    try:
        parameters = replace(parameters, network=network_id(parameters.network))
    except ValueError as error:
        found.append(Violation("parameters.network", str(error)))
        parameters = replace(parameters, network="")
    architecture = ARCHITECTURES[split(parameters.network)[0]]
    parameters = fitted(parameters, parameters.network, draft.preset, draft.given)
    if len(request_id) > MAX_REQUEST_ID or not request_id.isprintable():
        found.append(Violation("request_id", f"must be at most {MAX_REQUEST_ID} printable characters"))
    if len(draft.styles) > config.max_styles:
        found.append(Violation("styles", f"at most {config.max_styles} are accepted, got {len(draft.styles)}"))
    if draft.mask is not None and draft.content is None:
        found.append(Violation("mask", "selects a part of the content; the job has no content"))
    if draft.content is None and not draft.styles:
        found.append(Violation("content", "give a content image, styles, or both"))
    else:
        regions = draft.mask is not None or any(style.mask or style.region for style in draft.styles)
        found += [
            Violation(f"parameters.{violation.field}", violation.description)
            for violation in violations(
                parameters,
                architecture.layer_names,
                config.max_size_px,
                has_content=draft.content is not None,
                styles=len(draft.styles),
                has_image=draft.init_image is not None,
                has_regions=regions and bool(draft.styles),
                min_size_px=architecture.min_side_px,
            )
        ]
    found += _job_violations(draft)
    found += labels.violations(draft.labels)
    if draft.webhook and (wrong := wrong_with(draft.webhook, config.webhook_hosts)):
        found.append(Violation("webhook", wrong))
    found += _output_violations(draft.output)
    _raise(found)
    return replace(draft, parameters=parameters)


def _job_violations(draft: Draft) -> Iterator[Violation]:
    for index, style in enumerate(draft.styles):
        if not 1e-6 <= style.weight <= 1e6:
            yield Violation(f"styles[{index}].weight", f"must be from 1e-6 to 1e6, got {style.weight:g}")
    if abs(draft.priority) > MAX_PRIORITY:
        yield Violation("priority", f"must be from {-MAX_PRIORITY} to {MAX_PRIORITY}, got {draft.priority}")
    for name, seconds in (("time_limit", draft.time_limit_s), ("ttl", draft.ttl_s)):
        if seconds is not None and not 0 < seconds <= MAX_SECONDS:
            yield Violation(name, f"must be above 0 s and at most {MAX_SECONDS:g} s, got {seconds:g} s")


def open_pictures(draft: Draft, config: ServerConfig, tell: Callable[[str], None] = lambda _: None) -> JobSpec:
    """Open and resize a checked draft's pictures, one after another. Run it in a decoder (decoders.py).

    Args:
        draft: What to open.
        config: The limits.
        tell: Called with the field of each picture before it is opened.

    Raises:
        ServiceError: INVALID_ARGUMENT that lists every unusable picture.
    """
    pictures = _Pictures(draft, config, tell)
    parameters = draft.parameters
    size = pictures.canvas_size()
    if size is not None and max(size) > config.max_size_px:
        field_name = "width_px" if size[0] > size[1] else "height_px"
        text = f"would be {max(size)} px by the picture's aspect ratio; at most {config.max_size_px}"
        pictures.found.append(Violation(f"parameters.{field_name}", text))
        size = None
    if size is None:
        _raise(pictures.found)
        raise invalid(("content", "give a content image, styles, or both"))
    seen_px = max(size) * parameters.style_scale
    if draft.styles and parameters.style_scale > 1 and seen_px > config.max_size_px:
        text = f"would use the styles at {seen_px:.0f} px; at most {config.max_size_px}"
        pictures.found.append(Violation("parameters.style_scale", text))
        _raise(pictures.found)
    pictures.found += _too_thin("parameters.size_px", size, parameters)
    if not parameters.schedule:
        parameters = replace(parameters, size_px=max(size))
    content = pictures.raster("content", size)
    init_image = pictures.raster("init_image", size)
    mask = pictures.plane("mask", size)
    styles = tuple(filter(None, (pictures.style(index, size, mask) for index in range(len(draft.styles)))))
    _raise(pictures.found)
    return JobSpec(
        size[0],
        size[1],
        content,
        styles,
        parameters,
        draft.output,
        draft.priority,
        draft.time_limit_s,
        draft.return_best,
        draft.ttl_s,
        mask,
        init_image,
        tuple(Source(role, file.name, pictures.digests[role]) for role, file in draft.files().items()),
        draft.labels,
        draft.webhook,
    )


@dataclass(frozen=True)
class Inspection:
    """Parameters of an inspection; see :class:`~impasto_server.workers.messages.Inspect`."""

    network: str
    layer: str
    filters: tuple[int, ...]
    count: int
    size_px: int
    pooling: Pooling
    found: tuple[Violation, ...] = ()


def check_inspection(asked: Inspection, network_id: Callable[[str], str], config: ServerConfig) -> Inspection:
    """Check an inspection, all but its picture; return it with its network's full name.

    Raises:
        ServiceError: INVALID_ARGUMENT that lists every invalid field.
    """
    found = list(asked.found)
    network = ""
    try:
        network = network_id(asked.network)
    except ValueError as error:
        found.append(Violation("network", str(error)))
    architecture = ARCHITECTURES[split(network)[0]]
    channels = next((item.channels for item in architecture.layers if item.name == asked.layer), None)
    if channels is None:
        names = ", ".join(architecture.layer_names)
        found.append(Violation("layer", f"no layer {asked.layer!r}; the network has {names}"))
    elif not all(0 <= number < channels for number in asked.filters):
        found.append(Violation("filters", f"{asked.layer} has filters 0 to {channels - 1}, got {list(asked.filters)}"))
    if len(asked.filters) > MAX_FILTERS or not 0 <= asked.count <= MAX_FILTERS:
        found.append(Violation("count", f"at most {MAX_FILTERS} filters are shown at once"))
    largest = min(config.max_size_px, MAX_INSPECTION_PX)
    if not architecture.min_side_px <= asked.size_px <= largest:
        text = f"must be from {architecture.min_side_px} to {largest}, got {asked.size_px}"
        found.append(Violation("size_px", text))
    _raise(found)
    return replace(asked, network=network, count=asked.count or SHOWN_FILTERS)


def open_inspected(
    file: File, asked: Inspection, config: ServerConfig, tell: Callable[[str], None] = lambda _: None
) -> Inspect:
    """Open the picture of a checked inspection. Run it in a decoder, as :func:`open_pictures`.

    Raises:
        ServiceError: INVALID_ARGUMENT if it is unusable.
    """
    tell("image")
    try:
        opened = images.open_image(file.read(), config.max_image_pixels)
    except images.ImageError as error:
        raise invalid(("image", file.rejected(error))) from None
    size = images.canvas_size(opened, asked.size_px)
    _raise(_too_thin("size_px", size, Parameters(network=asked.network)))
    picture = images.fit(opened, *size)
    return Inspect(0, picture, asked.network, asked.layer, asked.filters, asked.count, asked.pooling)


class _Pictures:
    """A draft's pictures, opened one at a time, and their problems.

    Args:
        draft: What to open.
        config: The limits.
        tell: Called with the field of each picture before it is opened.

    Attributes:
        found: The problems.
        digests: SHA-256 of each file, by field.
    """

    def __init__(self, draft: Draft, config: ServerConfig, tell: Callable[[str], None]) -> None:
        self.found: list[Violation] = []
        self.digests: dict[str, str] = {}
        self._draft = draft
        self._config = config
        self._tell = tell
        self._files = draft.files()
        self._model: tuple[str, Image] | None = None
        self._known: dict[Path | None, str] = {}
        """Digests and problems of uploaded files, by path: several fields may use the same file."""
        self._wrong: dict[Path | None, str] = {}
        self._check_together()

    def _check_together(self) -> None:
        """Reject pictures with too many pixels together, by their headers."""
        most = REQUEST_PIXELS * self._config.max_image_pixels
        whole = sum(images.pixels_of(file.data) for file in self._files.values())
        if whole > most:
            raise invalid(("request", f"its pictures have {whole} pixels together; at most {most} are accepted per request"))

    def _open(self, name: str, background: str = "white") -> Image | None:
        """Return a picture as it is in its file; None if it was not given or is unusable."""
        if self._model is not None and self._model[0] == name:
            return self._model[1]
        file = self._files.get(name)
        if file is None:
            return None
        self._tell(name)
        try:
            where = file.data if isinstance(file.data, Path) else None
            if where in self._wrong:
                raise images.ImageError(self._wrong[where])
            data = file.read()
            digest = self._known.get(where) or hashlib.sha256(data).hexdigest()
            self.digests[name] = digest
            if where is not None:
                self._known[where] = digest
            with decoding.alone() if images.pixels_of(data) > LARGE_PIXELS else contextlib.nullcontext():
                return images.open_image(data, self._config.max_image_pixels, background)
        except images.ImageError as error:
            if isinstance(file.data, Path):
                self._wrong[file.data] = str(error)
            self.found.append(Violation(name, file.rejected(error)))
            return None

    def canvas_size(self) -> tuple[int, int] | None:
        """Return width and height of the canvas: with the content's aspect ratio, or the first style's without content."""
        draft, parameters = self._draft, self._draft.parameters
        name = "content" if draft.content is not None else "styles[0].image"
        model = self._open(name)
        if model is None:
            self._open_rest(name)
            return None
        self._model = name, model
        if parameters.width_px or parameters.height_px:
            return images.exact_size(model, parameters.width_px, parameters.height_px)
        return images.canvas_size(model, parameters.size_px)

    def _open_rest(self, but: str) -> None:
        """Open the other pictures too, so that all problems of the request are reported at once."""
        for name in self._files:
            if name != but:
                self._open(name)

    def raster(self, name: str, size: tuple[int, int]) -> Raster | None:
        """Return a picture at a size; None if it was not given or is unusable."""
        opened = self._open(name)
        return images.fit(opened, *size) if opened else None

    def plane(self, name: str, size: tuple[int, int]) -> Plane | None:
        """Return a mask at a size; None if it was not given or is unusable."""
        opened = self._open(name, "black")  # transparent parts of a mask are outside
        if opened is None:
            return None
        try:
            return images.fit_mask(opened, *size)
        except images.ImageError as error:
            self.found.append(Violation(name, str(error)))
            return None

    def style(self, index: int, canvas: tuple[int, int], painted: Plane | None) -> StylePicture | None:
        """Return a style at the size of its strokes on the canvas; None if it is unusable."""
        name, parameters = f"styles[{index}].image", self._draft.parameters
        opened = self._open(name)
        if opened is None:
            return None
        size = images.canvas_size(opened, round(max(canvas) * parameters.style_scale))
        self.found += _too_thin(name, size, parameters)
        picture = images.fit(opened, *size)
        del opened  # only one picture at a time is held at full size
        mask = self.plane(f"styles[{index}].mask", size)
        region = self.plane(f"styles[{index}].region", canvas)
        if region is not None and painted is not None and not _overlap(region, painted):
            text = "lies outside the painted part of the mask: the style would not be visible"
            self.found.append(Violation(f"styles[{index}].region", text))
        weight, digest = self._draft.styles[index].weight, hashlib.sha256(content_of(picture.rgb, picture.size)).hexdigest()
        return StylePicture(picture, weight, digest, mask, region)


def _overlap(one: Plane, other: Plane) -> bool:
    """Return whether two masks of one size overlap."""
    both = ImageChops.darker(
        *(frombytes("L", (plane.width, plane.height), content_of(plane.values, plane.size)) for plane in (one, other))
    )
    return both.getbbox() is not None


def _too_thin(name: str, size: tuple[int, int], parameters: Parameters) -> list[Violation]:
    least = ARCHITECTURES[split(parameters.network)[0]].min_side_px
    if min(size) >= least:
        return []
    return [Violation(name, f"gives {size[0]} x {size[1]} pixels; the network needs at least {least} on either side")]


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
