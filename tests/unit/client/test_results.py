"""Results and jobs in notebooks."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from PIL import Image

import impasto
from impasto import results
from impasto.notebooks import job_html
from impasto.requests import job_spec
from impasto.v1 import style_transfer_pb2 as pb
from tests.conftest import JPEG, encoded, picture
from tests.unit.client.servers import FakeService, serving


def job(**changes: Any) -> impasto.JobInfo:
    message = pb.Job(
        job_id="abc", state=pb.JOB_STATE_RUNNING, step=3, parameters=pb.Parameters(steps=10), width_px=48, height_px=40
    )
    message.create_time.FromDatetime(datetime.now(UTC))
    return dataclasses.replace(results.job_info(message), **changes)


def result(data: bytes) -> impasto.Result:
    return impasto.Result(data, job(state="succeeded"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_result_is_shown_as_a_picture(kind: str) -> None:
    """As PNG, which every notebook shows; a PNG is not encoded again."""
    data = encoded(picture(), kind)
    shown = result(data)._repr_png_()
    assert shown.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(shown)) as image:
        assert image.size == picture().size
    assert kind != "PNG" or shown is data


def test_a_job_is_shown_with_its_progress() -> None:
    """And nothing in it is taken for markup."""
    shown = job_html("abc", job(losses=impasto.Losses(0.5, 0.25, 0.25, 0.0)))
    assert '<progress max="10" value="3">' in shown
    assert "running" in shown
    assert "loss 0.5" in shown
    shown = job_html("<b>", job(state="failed", error_message="<script>"))
    assert "<script>" not in shown
    assert "<b>" not in shown


def test_a_job_without_a_server_is_shown_with_the_reason() -> None:
    """A notebook that is opened again has no traceback in it."""
    with impasto.Client("127.0.0.1:1", patience_s=0) as client:
        assert "no impasto server answers" in client.job("abc")._repr_html_()
    with serving(FakeService()) as address, impasto.Client(address) as client:
        assert "job-1" in client.submit(JPEG + b"x", JPEG + b"y")._repr_html_()


async def test_an_async_job_is_shown_as_it_was_submitted() -> None:
    with serving(FakeService()) as address:
        async with impasto.AsyncClient(address) as client:
            assert "queued" in (await client.submit(JPEG + b"x", JPEG + b"y"))._repr_html_()
            assert "abc" in client.job("abc")._repr_html_()


@pytest.mark.parametrize("many", [False, True])
def test_progress_is_shown_on_a_terminal_and_not_in_a_log(monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    """One bar for a picture, one for all pictures of a map."""
    for terminal in (True, False):
        written = io.StringIO()
        monkeypatch.setattr(written, "isatty", lambda terminal=terminal: terminal, raising=False)
        monkeypatch.setattr("sys.stderr", written)
        monkeypatch.setenv("TERM", "xterm")
        with serving(FakeService()) as address, impasto.Client(address) as client:
            if many:
                assert len(list(client.map([JPEG + b"x"] * 3, JPEG + b"y", progress=True))) == 3
                wanted = "3/3"
            else:
                client.stylize(JPEG + b"x", JPEG + b"y", progress=True)
                wanted = "painting on"
        assert (wanted in written.getvalue()) is terminal, written.getvalue()


def test_what_is_printed_is_short(png: Callable[..., bytes]) -> None:
    """An id, what became of it, and sizes instead of bytes; in errors too."""
    done = job(state="succeeded", step=10, losses=impasto.Losses(0.5, 0.25, 0.25, 0.0), labels={"album": "x" * 500})
    assert repr(done) == "JobInfo('abc', succeeded, 10 of 10 steps, 48 x 40 px, loss 0.5)"
    assert repr(impasto.Result(b"x" * 5000, done)) == f"Result({done!r}, 5000 bytes)"
    failed = job(state="failed", error_reason="OUT_OF_MEMORY", width_px=0)
    assert repr(failed) == "JobInfo('abc', failed, 3 of 10 steps, OUT_OF_MEMORY)"
    assert (
        repr(impasto.Style(b"x" * 5000, 0.5, region="sky.png")) == "Style(picture=<5000 bytes>, weight=0.5, region='sky.png')"
    )
    network = pb.NetworkInfo(name="vgg16", id="vgg16:builtin", layers=[f"conv{index}" for index in range(99)])
    presets = [pb.Preset(name=f"preset-{index}", parameters=pb.Parameters(steps=3)) for index in range(9)]
    message = pb.GetServerInfoResponse(version="1", devices=[pb.Device(name="cpu")], networks=[network], presets=presets)
    assert repr(results.server_info(message)) == (
        "ServerInfo('1', accepting no jobs, 0 running, 0 queued, devices ['cpu (not ready)'], networks ['vgg16:builtin'])"
    )
    for style, said in (((png(), 1.0, 2.0), "bytes>, 1.0, 2.0)"), ((png(),), "bytes>,)")):
        with pytest.raises(impasto.InvalidRequest) as caught:
            job_spec(None, [style], {"optimizer": b"x" * 5000, "labels": "y" * 5000})  # type: ignore[list-item]
        assert said in str(caught.value)
        assert len(str(caught.value)) < 500
