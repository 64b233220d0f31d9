"""Builds requests from keyword arguments: pure functions shared by both clients."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict

from impasto.pictures import Picture, fill
from impasto.protobuf_fields import Problems, assign, brief, invalid, set_labels, set_layers, set_schedule, set_span, set_time
from impasto.v1 import style_transfer_pb2 as pb
from impasto.words import enum_words


@dataclass(frozen=True)
class Style:
    """One style in the mix.

    Attributes:
        picture: The style picture.
        weight: Weight relative to the other styles.
        mask: Part of the picture that defines the style: white is included, black is excluded; all of it by default.
        region: Part of the canvas that receives the style, likewise; everything that is painted by default.
    """

    picture: Picture
    weight: float | None = None
    mask: Picture | None = None
    region: Picture | None = None

    def __repr__(self) -> str:
        """Return what was given; of files in memory only their size."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return f"Style({', '.join(f'{name}={brief(value)}' for name, value in given.items())})"


Styles: TypeAlias = "Picture | Style | Sequence[Picture | Style | tuple[Picture, float]] | None"
"""One picture, or several, each alone, with its weight, or as a :class:`Style`."""

DEFAULT_SERVER = "localhost:50051"


class Options(TypedDict, total=False):
    """Painting options; values that are not given come from the preset.

    Attributes:
        preset: ``default`` (also ``good``), ``draft``, ``best``, ``preview``, ``seed``, ``gatys`` or ``neural-style``
            (see ``Client.server_info``).
        content_layers: Weight by layer name, such as ``{"relu4_2": 1.0}``.
        style_layers: Weight by layer name.
        content_weight: Weight of the content loss.
        style_weight: Weight of the style loss.
        total_variation_weight: Weight of the mean squared difference of neighbouring pixels.
        normalization: ``target``, ``gatys`` or ``mean``.
        size_px: Longer side of the canvas.
        steps: Optimizer steps.
        optimizer: ``lbfgs`` or ``adam``.
        learning_rate: L-BFGS: relative to its own step, 1 by default. Adam: in pixel values of [0, 1], 0.02 by default.
        history: Number of correction pairs that L-BFGS keeps.
        init: ``content``, ``noise``, ``style`` or ``image``.
        seed: Seed of the noise.
        pooling: ``average`` or ``max``.
        levels: Number of sizes to paint at, each twice the previous one; 1 for ``size_px`` only, 0 lets the server choose.
        precision: ``auto``, ``float32``, ``tf32`` or ``bfloat16``.
        network: ``ARCHITECTURE:WEIGHTS``, such as ``vgg19:imagenet-v1`` or ``alexnet:random-7``; by default the server's.
        style_scale: Size of the style's strokes: styles are resized to ``size_px`` times this. 1 by default.
        color: Colours of the picture: ``style`` (the default), ``luminance`` (the content's; only luminance is painted) or
            ``matched`` (the content's; the styles' colours are matched to them first).
        style_loss: ``gram``, ``covariance``, ``moments``, ``sliced`` or ``histogram``.
        tolerance: Ends the job when ten steps together lower the loss by less than this fraction of it (stop reason
            ``converged``). 0 by default: never. Whatever it is, a job ends when no improvement is found any more (``stalled``).
        width_px: Exact width; the content is cropped to the aspect ratio. If only one of both is given, the other follows.
        height_px: Exact height.
        schedule: Pairs of size and steps, coarsest first; replaces ``size_px``, ``steps`` and ``levels``.
        mask: Picture that selects the part of the content to paint: white is painted, black is left unchanged.
        init_image: Initial canvas.
        format: ``png``, ``jpeg`` or ``webp``.
        quality: Quality of JPEG and WebP, 1 to 100.
        preview_every_steps: Number of steps between previews; 0 for none.
        preview_size_px: Longer side of previews.
        omit_metadata: Omits the metadata from the file; ``impasto redo`` needs it to reproduce the picture.
        priority: From -10 to 10; higher priorities start first and preempt lower ones, which resume later. 0 by default.
        time_limit_s: Time from acceptance to the end, including waiting; none by default.
        on_deadline: ``fail`` (the default) or ``return_best``: what happens at the time limit, or shortly before the deadline
            of a ``stylize`` call without a time limit.
        ttl_s: How long the job and its picture are kept after its end, within the server's retention.
        labels: Labels by which :meth:`impasto.Client.jobs` finds the job, such as ``{"album": "norway"}``; at most 16.
        webhook: URL that the server tells of the job's end, if its operator allows the host; signed as Standard Webhooks.
    """

    preset: str
    content_layers: Mapping[str, float]
    style_layers: Mapping[str, float]
    content_weight: float
    style_weight: float
    total_variation_weight: float
    normalization: Literal["target", "gatys", "mean"]
    size_px: int
    steps: int
    optimizer: Literal["lbfgs", "adam"]
    learning_rate: float
    history: int
    init: Literal["content", "noise", "style", "image"]
    seed: int
    pooling: Literal["average", "max"]
    levels: int
    precision: Literal["auto", "float32", "tf32", "bfloat16"]
    network: str
    style_scale: float
    color: Literal["style", "luminance", "matched"]
    style_loss: Literal["gram", "covariance", "moments", "sliced", "histogram"]
    tolerance: float
    width_px: int
    height_px: int
    schedule: Sequence[tuple[int, int]]
    mask: Picture
    init_image: Picture
    format: Literal["png", "jpeg", "webp"]
    quality: int
    preview_every_steps: int
    preview_size_px: int
    omit_metadata: bool
    priority: int
    time_limit_s: float
    on_deadline: Literal["fail", "return_best"]
    ttl_s: float
    labels: Mapping[str, str]
    webhook: str


ENUMS: Mapping[str, Any] = {
    "optimizer": pb.Optimizer,
    "init": pb.Init,
    "pooling": pb.Pooling,
    "normalization": pb.Normalization,
    "precision": pb.Precision,
    "format": pb.ImageFormat,
    "on_deadline": pb.OnDeadline,
    "color": pb.Color,
    "style_loss": pb.StyleLoss,
}
"""Options whose values are enumerations of the contract."""
QUALITIES = ("draft", "good", "best")
"""Presets that differ in how far the painting goes, in this order; ``good`` is the default."""
HOW_FAR = frozenset({"steps", "tolerance"})
"""The parameters in which they differ."""
_OUTPUT = ("format", "quality", "preview_every_steps", "preview_size_px", "omit_metadata")
_PICTURES = ("mask", "init_image")
_SPEC = ("priority", "time_limit_s", "on_deadline", "ttl_s", "labels", "webhook")
_SPANS = {"time_limit_s": "time_limit", "ttl_s": "ttl"}
_JOB_STATES: Mapping[str, Any] = {word: number for number, word in enum_words(pb.JobState).items() if number}


def server_address(server: str | None) -> str:
    """Return the address to call: the argument, else ``$IMPASTO_SERVER``, else localhost:50051.

    Raises:
        InvalidRequest: If it is not HOST:PORT. gRPC's own forms (``dns:///...``, ``unix:...``) are accepted.
    """
    address = server or os.environ.get("IMPASTO_SERVER") or DEFAULT_SERVER
    if not isinstance(address, str):
        raise invalid("server", f"must be HOST:PORT, got {address!r}")
    host, _, port = address.rpartition(":")
    own_form = address.startswith(("unix:", "unix-abstract:", "vsock:", "dns:", "ipv4:", "ipv6:", "xds:"))
    if not own_form and not (host and "/" not in host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise invalid("server", f"must be HOST:PORT, got {address!r}")
    return address


def job_spec(content: Picture | None, style: Styles, options: Mapping[str, Any]) -> pb.JobSpec:
    """Return the specification of a job.

    Raises:
        InvalidRequest: If a picture cannot be read or options have values of the wrong kind; the error names all of them.
        TypeError: If an option is unknown.
    """
    check_names(options)
    spec, collect = pb.JobSpec(), Problems()
    if content is not None:
        collect(fill, spec.content, content, "content")
    for index, given in enumerate(collect(_styles, style) or ()):
        added = spec.styles.add()
        collect(fill, added.image, given.picture, f"styles[{index}].image")
        for name in ("mask", "region"):
            if getattr(given, name) is not None:
                collect(fill, getattr(added, name), getattr(given, name), f"styles[{index}].{name}")
        if given.weight is not None:
            collect(assign, added, "weight", given.weight, f"styles[{index}].weight")
    for name, value in options.items():
        if value is not None and name in _PICTURES:
            collect(fill, getattr(spec, name), value, name)
        elif value is not None:
            target = spec if name in _SPEC else spec.output if name in _OUTPUT else spec.parameters
            collect(_set, target, name, value)
    collect.check()
    return spec


def check_names(options: Mapping[str, Any]) -> None:
    """Check that all options are options of jobs.

    Raises:
        TypeError: If one is unknown, or an argument of calls.
    """
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        raise TypeError(f"{'; '.join(map(_unknown, unknown))}; valid options: {', '.join(Options.__annotations__)}")


_OF_CALLS = ("timeout_s", "on_step", "request_id")
"""Arguments of calls that are no options of a job."""


def _unknown(name: str) -> str:
    if name in _OF_CALLS:
        return f"{name} is an argument of other methods, not an option of a job"
    similar = difflib.get_close_matches(name, (*Options.__annotations__, *_OF_CALLS), n=1)
    return f"unknown option {name}" + (f", did you mean {similar[0]}?" if similar else "")


EXPERIMENT = {"init": "noise", "total_variation_weight": 0.0}
"""Options of reconstructions and textures: a single loss, starting from noise."""


def reconstruction_options(layer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a content reconstruction from one layer; the caller's options take precedence."""
    return {**EXPERIMENT, "content_layers": {layer: 1.0}, "content_weight": 1.0, "steps": 200, **options}


def texture_options(layers: Sequence[str] | Mapping[str, float] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a texture; the caller's options take precedence."""
    chosen: dict[str, Any] = {}
    if layers is not None:
        weighted = isinstance(layers, Mapping)
        chosen["style_layers"] = layers if weighted else {layer: 1 / len(layers) for layer in layers}
    return {**EXPERIMENT, "steps": 200, **chosen, **options}


def features_request(
    image: Picture, layer: str, filters: Sequence[int] | int, network: str, size_px: int, pooling: str
) -> pb.InspectFeaturesRequest:
    """Return the request for the responses of filters to a picture.

    Raises:
        InvalidRequest: If the picture cannot be read or a value is of the wrong kind; the error names all of them.
    """
    request, collect = pb.InspectFeaturesRequest(network=network, layer=layer), Problems()
    collect(fill, request.image, image, "image")
    collect(assign, request, "size_px", size_px, "size_px")
    collect(_set_enum, request, "pooling", pooling, "pooling")
    if isinstance(filters, int):
        collect(assign, request, "count", filters, "count")
    else:
        request.filters.extend(filters)
    collect.check()
    return request


def job_states(states: Sequence[str]) -> list[pb.JobState]:
    """Return the numbers of states.

    Raises:
        InvalidRequest: If states are unknown; the error names all of them.
    """
    unknown = [repr(state) for state in states if state not in _JOB_STATES]
    if unknown:
        word = "states" if len(unknown) > 1 else "state"
        raise invalid("states", f"unknown {word} {', '.join(unknown)}; valid states: {', '.join(_JOB_STATES)}")
    return [_JOB_STATES[state] for state in states]


def labels_of(pairs: Iterable[str], field: str) -> dict[str, str]:
    """Return the labels in texts ``NAME=VALUE``.

    Args:
        pairs: The texts.
        field: What errors call them.

    Raises:
        InvalidRequest: If a text is not that, or a name is given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise invalid(field, f"{pair!r} is not NAME=VALUE, such as album=norway")
        if name in found:
            raise invalid(field, f"gives {name!r} twice")
        found[name] = text
    return found


def list_request(
    states: Sequence[str],
    labels: Mapping[str, str] | None,
    created_from: datetime | None,
    created_before: datetime | None,
    owner: str,
) -> pb.ListJobsRequest:
    """Return the request for a list of jobs.

    Raises:
        InvalidRequest: If a state is unknown or a value is of the wrong kind; the error names all of them.
    """
    collect = Problems()
    request = pb.ListJobsRequest(states=collect(job_states, states))
    if labels is not None:
        collect(set_labels, request.labels, labels, "labels")
    for name, moment in (("created_from", created_from), ("created_before", created_before)):
        if moment is not None:
            collect(set_time, getattr(request, name), moment, name)
    collect(assign, request, "owner", owner, "owner")
    collect.check()
    return request


def _styles(style: Styles) -> list[Style]:
    if style is None:
        return []
    given = style if isinstance(style, list | tuple) else [style]
    if not given:
        raise invalid("styles", "is an empty list; give a style, or None for none")
    return [_style(item) for item in given]


def _style(given: Any) -> Style:
    if isinstance(given, Style):
        return given
    if isinstance(given, tuple) and len(given) != 2:
        raise invalid("styles", f"a style is a picture, a pair of a picture and its weight, or a Style; got {brief(given)}")
    return Style(given[0], given[1]) if isinstance(given, tuple) else Style(given)


def file_quality(value: object, path: str) -> None:
    """Refuse a preset as the quality of the file, with a hint.

    Raises:
        InvalidRequest: If it is one.
    """
    if value in QUALITIES:
        raise invalid(
            path, f"is the quality of the file, 1 to 100, got {value!r}; how far the painting goes is preset={value!r}"
        )


def _set(target: Any, name: str, value: Any) -> None:
    path = name if name in _SPEC else f"output.{name}" if name in _OUTPUT else f"parameters.{name}"
    if name == "quality":
        file_quality(value, path)
    if name in ENUMS:
        _set_enum(target, name, value, path)
    elif name.endswith("_layers"):
        set_layers(getattr(target, name), value, path)
    elif name == "labels":
        set_labels(target.labels, value, path)
    elif name == "schedule":
        set_schedule(target.schedule, value, path)
    elif name in _SPANS:
        set_span(getattr(target, _SPANS[name]), value, _SPANS[name])
    else:
        assign(target, name, value, path)


def _set_enum(target: Any, name: str, value: Any, path: str) -> None:
    words = {word: number for number, word in enum_words(ENUMS[name]).items() if number}
    if not isinstance(value, str) or value not in words:
        raise invalid(path, f"must be one of {', '.join(words)}, got {brief(value)}")
    setattr(target, name, words[value])


PIECE_BYTES = 1 << 20


def upload_requests(data: bytes, image_id: str, offset: int, *, ask_only: bool) -> Iterator[pb.UploadImageRequest]:
    """Yield the messages that upload a file from an offset, or only query how many bytes are stored."""
    yield pb.UploadImageRequest(start=pb.UploadStart(sha256=image_id, size_bytes=len(data), offset_bytes=offset))
    for start in range(offset, 0 if ask_only else len(data), PIECE_BYTES):
        yield pb.UploadImageRequest(chunk=data[start : start + PIECE_BYTES])


LARGE_BYTES = 4 << 20
"""Pictures above this size are uploaded in chunks instead of being sent with the job."""


def images_of(spec: pb.JobSpec) -> Iterator[pb.Image]:
    """Yield the pictures of a job."""
    owners = [(spec, ("content", "mask", "init_image")), *((style, ("image", "mask", "region")) for style in spec.styles)]
    for owner, names in owners:
        yield from (getattr(owner, name) for name in names if owner.HasField(name))


def large_images(spec: pb.JobSpec) -> Iterator[pb.Image]:
    """Yield the pictures of a job that should be uploaded first."""
    return (image for image in images_of(spec) if len(image.data) > LARGE_BYTES)
