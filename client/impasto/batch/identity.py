"""What a picture of a batch depends on, as a hash: the same inputs and options give the same key, in every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict

from impasto.pictures import UploadedImage
from impasto.requests import Style, images_of, job_spec

_HANDLING = ("priority", "ttl", "labels", "webhook")
"""Fields of a job that do not affect its picture."""
_PREVIEWS = ("preview_every_steps", "preview_size_px")


def key_of(content: UploadedImage, styles: Sequence[Style], options: Mapping[str, Any]) -> str:
    """Return the hash of everything that affects a picture: hashes of the files and options, but no names.

    Args:
        content: The content, by its hash.
        styles: The styles with their masks and regions, likewise.
        options: Options of the job; pictures among them by hash too.
    """
    spec = job_spec(content, styles, options)
    for name in _HANDLING:
        if name in spec.DESCRIPTOR.fields_by_name:
            spec.ClearField(name)
    for name in _PREVIEWS:
        spec.output.ClearField(name)
    for image in images_of(spec):
        image.ClearField("name")
    text = json.dumps(MessageToDict(spec, preserving_proto_field_name=True), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def request_id(key: str, attempt: int) -> str:
    """Return the id under which a picture is requested, the same in every run.

    Args:
        key: Hash of what it depends on.
        attempt: Number of earlier jobs for it that ended without a picture.
    """
    return f"batch-{key[:48]}" + (f"-{attempt}" if attempt else "")
