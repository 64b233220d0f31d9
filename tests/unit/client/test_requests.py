"""What callers give, and what becomes of it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

import impasto
from impasto import errors, results
from impasto.requests import features_request, job_spec, job_states, server_address
from impasto.transport import channel_options, check_size
from impasto.v1 import style_transfer_pb2 as pb
from tests.conftest import JPEG, encoded, opened


def test_pictures_are_taken_as_callers_have_them(png: Callable[..., bytes], tmp_path: Path) -> None:
    """A path, a string, bytes, an open file and a PIL image all arrive as a picture."""
    data = png()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        for picture in (path, str(path), data, file):
            assert job_spec(picture, None, {}).content.data == data
    with Image.open(path) as image:
        sent = job_spec(image, None, {}).content.data
        assert Image.open(io.BytesIO(sent)).tobytes() == image.tobytes()
    sent = job_spec(Image.new("CMYK", (4, 4)), None, {}).content.data
    assert Image.open(io.BytesIO(sent)).mode == "RGB"


def test_styles_come_alone_or_several_with_or_without_weights() -> None:
    """None, one, a list, pairs; a weight not given stays not given."""
    assert not job_spec(JPEG + b"c", None, {}).styles
    assert [style.image.data for style in job_spec(JPEG + b"c", JPEG + b"s", {}).styles] == [JPEG + b"s"]
    mixed = job_spec(JPEG + b"c", [JPEG + b"s", (JPEG + b"t", 0.3)], {}).styles
    assert [(style.image.data, style.weight if style.HasField("weight") else None) for style in mixed] == [
        (JPEG + b"s", None),
        (JPEG + b"t", 0.3),
    ]


def test_options_land_in_their_fields_and_what_is_left_out_stays_out() -> None:
    """Numbers, words, layers and output options; zero is not the same as not given."""
    spec = job_spec(
        JPEG + b"c",
        JPEG + b"s",
        {"content_weight": 0.0, "optimizer": "adam", "style_layers": {"relu1_1": 2.0}, "format": "jpeg", "quality": 90},
    )
    assert spec.parameters.HasField("content_weight")
    assert not spec.parameters.HasField("steps")
    assert spec.parameters.optimizer == pb.OPTIMIZER_ADAM
    assert spec.parameters.style_layers.layers[0].weight == 2.0
    assert (spec.output.format, spec.output.quality) == (pb.IMAGE_FORMAT_JPEG, 90)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": "sgd"}, "parameters.optimizer: must be one of lbfgs, adam, got 'sgd'"),
        ({"optimizer": ["adam"]}, "parameters.optimizer: must be one of lbfgs, adam, got ['adam']"),
        ({"steps": "ten"}, "parameters.steps: must be a whole number, got the text 'ten'"),
        ({"steps": 2**40}, "parameters.steps: must be a whole number from -2147483648 to 2147483647, got 1099511627776"),
        ({"network": 3}, "parameters.network: must be text, got 3"),
        ({"omit_metadata": "no"}, "output.omit_metadata: must be True or False, got the text 'no'"),
        ({"style_layers": "relu1_1"}, 'parameters.style_layers: must be weights by layer, such as {"relu4_2": 1.0}'),
        ({"style_layers": {"relu1_1": "much"}}, "parameters.style_layers[relu1_1]: must be a number, got the text 'much'"),
        ({"schedule": [(256, "x")]}, "parameters.schedule[0].steps: must be a whole number"),
        ({"schedule": 5}, "parameters.schedule: must be pairs of size and steps, such as [(256, 100), (512, 50)], got 5"),
        ({"time_limit_s": "3s"}, "time_limit: must be seconds, got '3s'"),
        ({"time_limit_s": float("inf")}, "time_limit: must be seconds, got inf"),
        (
            {"quality": "best"},
            "output.quality: is the quality of the file, 1 to 100, got 'best'; how far the painting goes is preset='best'",
        ),
        ({"format": "gif"}, "output.format: must be one of png, jpeg, webp, got 'gif'"),
    ],
)
def test_options_of_the_wrong_kind_name_their_field(options: dict[str, object], text: str) -> None:
    """Before anything travels, in a caller's words."""
    with pytest.raises(impasto.InvalidRequest, match=f"^{re.escape(text)}") as caught:
        job_spec(JPEG + b"c", JPEG + b"s", options)
    assert [violation.field for violation in caught.value.violations] == [text.split(":", maxsplit=1)[0]]


def test_all_options_of_the_wrong_kind_are_named() -> None:
    """Not the first only."""
    with pytest.raises(impasto.InvalidRequest) as caught:
        job_spec(JPEG + b"c", JPEG + b"s", {"steps": "a", "color": "blue", "history": "b", "size_px": 64})
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["parameters.steps", "parameters.color", "parameters.history"]
    with pytest.raises(impasto.InvalidRequest, match="a style is a picture, a pair"):
        job_spec(JPEG + b"c", [(JPEG + b"s",)], {})  # type: ignore[list-item]
    with pytest.raises(impasto.InvalidRequest) as caught:
        job_spec(
            "none.png",
            [("none.png", 1.0), impasto.Style(JPEG + b"s", weight="much", region="none.png")],  # type: ignore[arg-type]
            {
                "optimizer": "sgd",
                "style_layers": {"relu1_1": "x", "relu2_1": "y"},
                "schedule": [("a", "b")],
                "mask": "none.png",
            },
        )
    assert [violation.field for violation in caught.value.violations] == [
        "content", "styles[0].image", "styles[1].region", "styles[1].weight", "parameters.optimizer",
        "parameters.style_layers[relu1_1]", "parameters.style_layers[relu2_1]", "parameters.schedule[0].size_px",
        "parameters.schedule[0].steps", "mask",
    ]  # fmt: skip
    with pytest.raises(impasto.InvalidRequest) as caught:
        features_request("none.png", "conv1_1", 5, "", "big", "min")  # type: ignore[arg-type]
    assert [violation.field for violation in caught.value.violations] == ["image", "size_px", "pooling"]


def test_unknown_options_are_a_type_error_that_lists_the_known() -> None:
    """As for any keyword argument; one that is spelt nearly right is proposed."""
    with pytest.raises(TypeError, match=r"unknown option stesp, did you mean steps\?; valid options: preset, .*size_px"):
        job_spec(JPEG + b"c", JPEG + b"s", {"stesp": 3})
    with pytest.raises(TypeError, match=r"^unknown option qqq; valid options: "):
        job_spec(JPEG + b"c", JPEG + b"s", {"qqq": 3})


def test_pictures_that_cannot_be_read_name_their_field(tmp_path: Path) -> None:
    """A missing file, and a file open in text mode."""
    with pytest.raises(impasto.InvalidRequest, match=r"styles\[1\]\.image: cannot be read: No such file"):
        job_spec(JPEG + b"c", [JPEG + b"s", tmp_path / "none.png"], {})
    (tmp_path / "text.png").write_text("x")
    with (tmp_path / "text.png").open() as file, pytest.raises(impasto.InvalidRequest, match="binary mode"):
        job_spec(file, None, {})


def test_files_that_are_no_pictures_say_what_the_client_takes(tmp_path: Path) -> None:
    """By their first bytes, with their names, before anything travels; what the client converts is in the list."""
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    with pytest.raises(impasto.InvalidRequest) as caught:
        job_spec(tmp_path / "notes.png", [tmp_path / "empty.png", b"?"], {})
    taken = "PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP or HEIC"
    assert [(item.field, item.description) for item in caught.value.violations] == [
        ("content", f"is not a {taken} picture: notes.png"),
        ("styles[0].image", "is empty: empty.png"),
        ("styles[1].image", f"is not a {taken} picture"),
    ]
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"):
        assert job_spec(encoded(Image.new("RGB", (8, 8)), kind), None, {}).content.data


def test_requests_too_large_for_any_server_stay_here() -> None:
    """With the field and both sizes."""
    with pytest.raises(impasto.InvalidRequest, match="67108864"):
        check_size(pb.JobSpec(content=pb.Image(data=bytes(70 << 20))), 64 << 20)


def test_the_servers_address_comes_from_three_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, the environment, the default; a local one is not sought behind a proxy."""
    monkeypatch.delenv("IMPASTO_SERVER", raising=False)
    assert server_address(None) == "localhost:50051"
    monkeypatch.setenv("IMPASTO_SERVER", "there:1")
    assert server_address(None) == "there:1"
    assert server_address("here:2") == "here:2"
    assert ("grpc.enable_http_proxy", 0) in channel_options("127.0.0.1:5")
    assert ("grpc.enable_http_proxy", 0) not in channel_options("there:1")


def test_states_are_words() -> None:
    """And a word that is none lists those that are."""
    assert job_states(["queued", "failed"]) == [pb.JOB_STATE_QUEUED, pb.JOB_STATE_FAILED]
    with pytest.raises(impasto.InvalidRequest, match="unknown state 'sleeping'; valid states: queued, running"):
        job_states(["sleeping"])


def test_every_error_of_the_table_is_caught_by_the_base_class() -> None:
    """Each status code gives its own exception; unknown codes give ServerError."""
    kinds = set()
    for code in grpc.StatusCode:
        error = errors.from_status(code, "text", None, "there:1")
        assert isinstance(error, impasto.ImpastoError)
        assert "text" in str(error) or type(error) is impasto.WaitTimeout
        kinds.add(type(error))
    assert {impasto.InvalidRequest, impasto.NotFound, impasto.Unavailable, impasto.ServerError} <= kinds


def test_details_of_a_status_become_attributes() -> None:
    """Reason, metadata, violations and the time to come back."""
    status = status_pb2.Status(code=8, message="full")
    info = error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="impasto", metadata={"queued": "7"})
    retry, bad = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    retry.retry_delay.FromMilliseconds(1500)
    bad.field_violations.add(field="f", description="d")
    for detail in (info, retry, bad):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    error = errors.from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", status.SerializeToString(), "there:1")
    assert isinstance(error, impasto.Overloaded)
    assert (error.reason, error.metadata, error.retry_after_s) == ("QUEUE_FULL", {"queued": "7"}, 1.5)
    assert error.violations == (errors.Violation("f", "d"),)


def test_a_result_saves_as_it_is_or_converted(png: Callable[..., bytes], tmp_path: Path) -> None:
    """The same ending writes the very bytes; another converts; one that Pillow cannot write is a ValueError."""
    result = impasto.Result(png(), results.job_info(pb.Job()))
    assert result.save(tmp_path / "a.png").read_bytes() == png()
    assert opened(result.save(tmp_path / "a.jpg"))[0] == "JPEG"
    with pytest.raises(ValueError, match="the name must end in"):
        result.save(tmp_path / "a.nonsense")


def test_numbers_from_a_newer_server_do_not_break_an_older_client() -> None:
    """An enum value that this client does not know stays a number."""
    message = pb.Job.FromString(pb.Job(job_id="x").SerializeToString() + b"\x18\x63")
    assert results.job_info(message).state == "99"


def test_the_command_line_names_the_option_beside_the_field() -> None:
    """Fields that no option stands for, and errors without fields, stay as they are."""
    from impasto.cli.main import told

    found = (
        errors.Violation("parameters.size_px", "too small"),
        errors.Violation("parameters.style_layers[relu1_1].weight", "no number"),
        errors.Violation("styles[0].image", "is empty"),
        errors.Violation("output.quality", "too large"),
        errors.Violation("mask", "is black"),
    )
    assert told(errors.InvalidRequest("all of it", violations=found)) == (
        "parameters.size_px (--size): too small; parameters.style_layers[relu1_1].weight: no number; "
        "styles[0].image: is empty; output.quality (--quality): too large; mask (--mask): is black"
    )
    assert told(errors.NotFound("no job")) == "no job"
