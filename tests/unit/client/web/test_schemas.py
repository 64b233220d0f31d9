"""Schemas of the contract's messages."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")

from google.protobuf import json_format

from impasto.v1 import style_transfer_pb2 as pb
from impasto.web.schemas import comment, schemas


def test_every_field_is_described_by_the_contracts_comment() -> None:
    """Also those of messages inside; names are those of the JSON mapping."""
    found = schemas(pb.SubmitJobRequest.DESCRIPTOR, pb.ProgressResponse.DESCRIPTOR, pb.GetServerInfoResponse.DESCRIPTOR)
    assert {"JobSpec", "Parameters", "Style", "Image", "JobState", "StepEvent", "Losses", "Preset"} <= set(found)
    for name, schema in found.items():
        if schema["type"] != "object":
            continue
        descriptor = getattr(pb, name).DESCRIPTOR
        assert set(schema["properties"]) == {field.json_name for field in descriptor.fields}, name
        for field in descriptor.fields:
            assert comment(name, field.name), f"{name}.{field.name}"


def test_types_are_those_of_the_json_mapping() -> None:
    """As protobuf itself writes a message."""
    message = pb.StepEvent(step=1, losses=pb.Losses(total=0.5), preview=pb.Image(data=b"x"))
    message.elapsed.FromMilliseconds(1500)
    kinds = {"integer": int, "number": float, "string": str, "object": dict}
    properties = schemas(pb.StepEvent.DESCRIPTOR)["StepEvent"]["properties"]
    for name, value in json_format.MessageToDict(message).items():
        kind = properties[name].get("type", "object")
        assert isinstance(value, kinds[kind]), name
