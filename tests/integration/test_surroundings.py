"""The command line and the client where people run them: CI logs, containers, slow links, full disks, odd names."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from PIL import Image

import impasto
from impasto.transport import proxy_of
from tests.conftest import ServerProcess, encoded
from tests.links import Link
from tests.unit.client.servers import FakeService, serving

COMMAND = [sys.executable, "-c", "from impasto.cli import main; main()"]
FAST = ["--size", "48", "--steps", "3", "--levels", "1", "-q"]


@pytest.fixture
def files(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    (tmp_path / "p.png").write_bytes(png())
    (tmp_path / "s.png").write_bytes(png(seed=1))
    return tmp_path


def run(server: ServerProcess | None, where: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "IMPASTO_SERVER": server.address if server else "127.0.0.1:1", "COLUMNS": "200", **environment}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=180, cwd=where, env=given, check=False
    )


def shell(server: ServerProcess, where: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $IMPASTO is the command."""
    given = {**os.environ, "IMPASTO_SERVER": server.address}
    script = line.replace("$IMPASTO", shlex.join(COMMAND))
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=180, cwd=where, env=given, check=False
    )


def jobs_of(server: ServerProcess, *states: str) -> list[impasto.JobInfo]:
    with impasto.Client(server.address) as client:
        return list(client.jobs(states))


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """See that a failed command said one line and no traceback."""
    assert done.returncode not in (0, None), done
    assert "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_a_log_file_gets_no_cursor_movements(real_server: ServerProcess, files: Path) -> None:
    """CI sets FORCE_COLOR."""
    done = run(real_server, files, "stylize", "p.png", "s.png", "-o", "o.png", "--size", "48", "--steps", "5", FORCE_COLOR="1")
    assert done.returncode == 0
    assert not any(code in done.stderr for code in ("\x1b[2K", "\x1b[?25l", "\r"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["stylize", "p.png", "s.png", "-o", "nowhere/o.png"], "FAILED"),
        (["stylize", "p.png", "-o", "o.png"], "USAGE"),
        (["stylize", "p.png", "s.png", "-o", "o.png", "--steps", "many"], "USAGE"),
        (["stylize", "nope.png", "s.png", "-o", "o.png"], "UNREADABLE"),
        (["jobs", "show", "nosuch"], "JOB_NOT_FOUND"),
        (["health", "--server", "127.0.0.1:1"], "UNAVAILABLE"),
        (["nonsense"], "USAGE"),
    ],
)
def test_errors_are_json_where_json_is_asked_for(
    real_server: ServerProcess, files: Path, arguments: list[str], reason: str
) -> None:
    done = run(real_server, files, *arguments, "--json")
    assert done.returncode in (1, 2)
    assert json.loads(done.stderr)["error"]["reason"] == reason
    assert json.loads(done.stderr)["error"]["message"]


def test_outputs_that_cannot_be_written_are_told_before_painting(real_server: ServerProcess, files: Path) -> None:
    (files / "dir.png").mkdir()
    before = len(jobs_of(real_server))
    for out in ("dir.png", "/proc/o.png", "nowhere/o.png", "o.bmp"):
        assert out in one_line(run(real_server, files, "stylize", "p.png", "s.png", "-o", out, *FAST))
    assert "previews" in one_line(
        run(real_server, files, "stylize", "p.png", "s.png", "-o", "o.png", "--preview-dir", "/proc/previews", *FAST)
    )
    assert len(jobs_of(real_server)) == before


def test_a_picture_that_cannot_be_written_at_the_end_is_not_lost(real_server: ServerProcess, files: Path) -> None:
    """The error says how to get it."""
    (files / "gone").mkdir()
    line = [*COMMAND, "stylize", "p.png", "s.png", "-o", "gone/o.png", "--size", "96", "--steps", "9999", "--optimizer", "adam"]
    line += ["--time-limit", "6", "--on-deadline", "return-best", "-q", "--json"]
    environment = {**os.environ, "IMPASTO_SERVER": real_server.address}
    with subprocess.Popen(line, cwd=files, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 60
        while not jobs_of(real_server, "running") and time.monotonic() < deadline:
            time.sleep(0.05)
        (files / "gone").rmdir()
        _, told = process.communicate(timeout=180)
    message = json.loads(told)["error"]["message"]
    found = re.search(r"cannot write gone/o.png: .*'impasto jobs result (\w+) -o OUT' gets the picture", message)
    assert found, message
    assert run(real_server, files, "jobs", "result", found[1], "-o", "o.png").returncode == 0


def test_a_disk_that_is_full_keeps_the_old_picture(real_server: ServerProcess, files: Path) -> None:
    """Files of at most 2 blocks, as if there were no more room."""
    (files / "keep.png").write_bytes(b"old" * 10_000)
    done = shell(real_server, files, f"ulimit -f 1; $IMPASTO stylize p.png s.png -o keep.png {' '.join(FAST)}")
    assert "keep.png" in one_line(done)
    assert (files / "keep.png").read_bytes() == b"old" * 10_000
    assert sorted(path.name for path in files.iterdir()) == ["keep.png", "p.png", "s.png"]
    assert "cannot write to stdout: No space left on device" in one_line(
        shell(real_server, files, f"$IMPASTO stylize p.png s.png -o - {' '.join(FAST)} >/dev/full")
    )
    told = one_line(shell(real_server, files, "env -u PYTHONUNBUFFERED $IMPASTO info >/dev/full"))
    assert told == "Error: No space left on device: stdout\n"


def test_a_picture_is_replaced_in_its_place_with_its_mode_and_through_a_link(real_server: ServerProcess, files: Path) -> None:
    (files / "real.png").write_bytes(b"old")
    (files / "real.png").chmod(0o640)
    (files / "link.png").symlink_to("real.png")
    assert run(real_server, files, "stylize", "p.png", "s.png", "-o", "link.png", *FAST).returncode == 0
    assert (files / "link.png").is_symlink()
    assert (files / "real.png").stat().st_mode & 0o777 == 0o640
    assert (files / "real.png").read_bytes().startswith(b"\x89PNG")


def test_previews_that_cannot_be_saved_any_more_cost_the_previews_only(real_server: ServerProcess, files: Path) -> None:
    """The stick was pulled."""
    options = ["--size", "96", "--steps", "60", "--optimizer", "adam", "-q", "--preview-dir", "pv", "--preview-every", "1"]
    process = subprocess.Popen(
        [*COMMAND, "stylize", "p.png", "s.png", "-o", "o.png", *options],
        cwd=files,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "IMPASTO_SERVER": real_server.address},
    )
    with process:
        while not (files / "pv").exists() or not list((files / "pv").iterdir()):
            time.sleep(0.02)
        (files / "pv").rename(files / "gone")
        _, error = process.communicate(timeout=180)
    assert process.returncode == 0, error
    assert error.count("no more previews are saved") == 1
    assert (files / "o.png").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("$IMPASTO stylize - s.png -o o.png -q <&-", "stdin"),
        ("$IMPASTO stylize p.png s.png -o - -q >&-", "stdout"),
        ("$IMPASTO info >&-", ""),
    ],
)
def test_closed_streams_are_one_line(real_server: ServerProcess, files: Path, line: str, said: str) -> None:
    """Started by a daemon."""
    done = shell(real_server, files, line)
    assert "Traceback" not in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGHUP, "-q"), (signal.SIGTERM, "-q"), (signal.SIGINT, "-q"), (signal.SIGINT, "--json")]
)
def test_a_command_that_is_stopped_leaves_no_job(
    real_server: ServerProcess, files: Path, number: signal.Signals, how: str
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "stylize", "p.png", "s.png", "-o", "o.png", "--size", "128", "--steps", "5000", "--optimizer", "adam", how],
        cwd=files,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "IMPASTO_SERVER": real_server.address},
    )
    with process:
        deadline = time.monotonic() + 60
        while not jobs_of(real_server, "running", "queued") and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    told = json.loads(error.splitlines()[-1])["error"]["message"] if how == "--json" else error.strip()
    assert (process.returncode, told) == (130, "Interrupted. The job is cancelled.")
    while jobs_of(real_server, "running", "queued") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not jobs_of(real_server, "running", "queued")


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_command_that_is_stopped_while_its_server_is_gone_says_how_to_find_the_job(files: Path, acknowledged: bool) -> None:
    """By its id, or by the request's if the job was not acknowledged; before that it says that the server is gone."""
    fake = FakeService(lambda number, context: None if acknowledged else context.abort(StatusCode.UNAVAILABLE, "Socket closed"))
    fake.hold.clear()
    with serving(fake) as address:
        process = subprocess.Popen(
            [*COMMAND, "stylize", "p.png", "s.png", "-o", "o.png"],
            cwd=files,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "IMPASTO_SERVER": address},
        )
        while not (fake.in_flight if acknowledged else fake.submitted):
            time.sleep(0.05)
        time.sleep(0.5)  # the acknowledgement is on its way
    fake.hold.set()
    with process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "trying again" in line)  # gRPC may write a line of its own before
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert said.startswith("Warning: ")
    assert said.endswith("; trying again for up to 60 s\n")
    assert process.returncode == 130
    if acknowledged:
        assert "Interrupted. Job job-1 could not be cancelled: no impasto server answers at" in error
        assert "'impasto jobs result job-1 --wait -o OUT' gets its picture" in error
    else:
        assert "Interrupted. The job could not be cancelled: no impasto server answers at" in error
        assert re.search(r"If the server accepted it, .* with the request id [0-9a-f-]{36}\.", error)


LONG: impasto.Options = {"size_px": 64, "steps": 5000, "optimizer": "adam"}


def test_a_command_that_is_stopped_while_it_submits_leaves_no_job(real_server: ServerProcess, files: Path) -> None:
    """The job was accepted; its acknowledgement never arrived."""
    with Link(real_server.address, mute=True) as link:
        process = subprocess.Popen(
            [*COMMAND, "stylize", "p.png", "s.png", "-o", "o.png", "--size", "64", "--steps", "5000", "-q"],
            cwd=files,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "IMPASTO_SERVER": link.address},
        )
        with process:
            accepted = _wait_for_job(real_server)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            link.mute = False
            _, error = process.communicate(timeout=120)
    assert (process.returncode, error.strip()) == (130, "Interrupted. The job is cancelled.")
    assert _state_at_end(real_server, accepted) == "cancelled"


def test_a_submission_without_an_answer_leaves_no_job(real_server: ServerProcess, files: Path) -> None:
    """Nobody knows its id."""
    with Link(real_server.address, mute=True) as link, impasto.Client(link.address) as client:
        with pytest.raises(TimeoutError):
            client.submit(files / "p.png", files / "s.png", timeout_s=2, **LONG)
        assert _state_at_end(real_server, _newest(real_server)) == "cancelled"


def test_a_submission_with_a_request_id_goes_on_without_an_answer(real_server: ServerProcess, files: Path) -> None:
    """The caller can join it, or cancel it by its request id."""
    request_id = str(uuid.uuid4())
    with Link(real_server.address, mute=True) as link, impasto.Client(link.address) as client:
        with pytest.raises(TimeoutError):
            client.submit(files / "p.png", files / "s.png", timeout_s=2, request_id=request_id, **LONG)
        assert jobs_of(real_server, "running", "queued")
    with impasto.Client(real_server.address) as client:
        assert client.cancel_request(request_id).request_id == request_id
        assert _state_at_end(real_server, _newest(real_server)) == "cancelled"
        with pytest.raises(impasto.NotFound):
            client.cancel_request(str(uuid.uuid4()))


async def test_a_task_that_is_cancelled_while_it_submits_leaves_no_job(real_server: ServerProcess, files: Path) -> None:
    """With asyncio."""
    with Link(real_server.address, mute=True) as link:
        async with impasto.AsyncClient(link.address) as client:
            task = asyncio.create_task(client.submit(files / "p.png", files / "s.png", **LONG))
            accepted = await asyncio.to_thread(_wait_for_job, real_server)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await asyncio.to_thread(_state_at_end, real_server, accepted) == "cancelled"


def _wait_for_job(server: ServerProcess) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := jobs_of(server, "running", "queued"):
            return found[0].job_id
        time.sleep(0.05)
    raise AssertionError("no job was accepted")


def _newest(server: ServerProcess) -> str:
    with impasto.Client(server.address) as client:
        return next(client.jobs()).job_id


def _state_at_end(server: ServerProcess, job_id: str) -> str:
    deadline = time.monotonic() + 30
    with impasto.Client(server.address) as client:
        while client.job(job_id).info().state in ("queued", "running") and time.monotonic() < deadline:
            time.sleep(0.05)
        return client.job(job_id).info().state


@pytest.mark.parametrize(
    "name",
    ["9.41.00\u202fAM.png", "obrazovka\u00a01.png", "family \U0001f468\u200d\U0001f469.png", "a\tb.png", "x" * 240 + ".png"],
)
def test_files_are_painted_whatever_their_name(real_server: ServerProcess, files: Path, name: str) -> None:
    """And made again from what the picture says."""
    (files / "p.png").rename(files / name)
    assert run(real_server, files, "stylize", name, "s.png", "-o", "o.png", *FAST).returncode == 0
    assert run(real_server, files, "redo", "o.png", "-o", "again.png", "-q").returncode == 0
    assert (files / "o.png").read_bytes() == (files / "again.png").read_bytes()


def test_a_name_that_is_no_text_is_painted(real_server: ServerProcess, files: Path) -> None:
    """Of an old file system, or another country's."""
    name = os.fsdecode(b"caf\xe9.png")
    (files / "p.png").rename(files / name)
    assert run(real_server, files, "stylize", name, "s.png", "-o", "o.png", *FAST).returncode == 0


def test_a_result_that_is_fetched_later_says_what_made_it(real_server: ServerProcess, files: Path) -> None:
    """Converted to JPEG, like one that is waited for; and redo takes it."""
    job = run(real_server, files, "stylize", "p.png", "s.png", "--detach", *FAST).stdout.strip()
    assert run(real_server, files, "jobs", "result", job, "--wait", "-o", "fetched.jpg", "-q").returncode == 0
    with Image.open(files / "fetched.jpg") as image:
        assert image.getexif()
        assert image.info.get("icc_profile")
    assert run(real_server, files, "redo", "fetched.jpg", "-o", "again.png", "-q").returncode == 0


def test_health_ends_with_0_or_1(real_server: ServerProcess, tmp_path: Path) -> None:
    """A container's health check knows nothing else."""
    assert run(real_server, tmp_path, "health").returncode == 0
    assert "no impasto server" in one_line(run(None, tmp_path, "health"))
    assert run(None, tmp_path, "health").returncode == 1


def test_a_peer_that_answers_byte_by_byte_does_not_hold_a_health_check(tmp_path: Path) -> None:
    """Its timeout is for the whole answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer:
                while True:
                    peer.sendall(b"H")
                    time.sleep(0.2)

    threading.Thread(target=drip, daemon=True).start()
    began = time.monotonic()
    done = run(None, tmp_path, "health", "--http", f"127.0.0.1:{listener.getsockname()[1]}", "--timeout", "1")
    listener.close()
    assert "no response" in one_line(done)
    assert time.monotonic() - began < 15


def test_a_job_whose_id_cannot_be_printed_is_named(real_server: ServerProcess, files: Path) -> None:
    """With --detach nobody waits for it, and the id is all that there is."""
    for closed in (">/dev/full", ">&-"):
        told = one_line(shell(real_server, files, f"$IMPASTO stylize p.png s.png --detach {' '.join(FAST[:-1])} {closed}"))
        found = re.search(r"cannot write to stdout: .*; job (\w+) goes on", told)
        assert found, told
        assert run(real_server, files, "jobs", "show", found[1]).returncode == 0


def test_what_cannot_be_printed_is_an_error(real_server: ServerProcess, files: Path) -> None:
    """Where Python has no stdout, it would say nothing."""
    assert one_line(shell(real_server, files, "$IMPASTO info >&-")) == "Error: stdout is closed\n"


@pytest.mark.parametrize("line", ["stylize p.png s.png -o o.png --size 48 --steps 3", "jobs list", "redo o.png -o o2.png"])
def test_a_full_stderr_stops_nothing(real_server: ServerProcess, files: Path, line: str) -> None:
    """What it would have told is lost."""
    if line.startswith("redo"):
        assert run(real_server, files, "stylize", "p.png", "s.png", "-o", "o.png", *FAST).returncode == 0
    assert shell(real_server, files, f"$IMPASTO {line} 2>/dev/full").returncode == 0


@pytest.mark.parametrize(
    "line", ["jobs list --label $'a=\\xff'", "jobs show $'\\xff'", "stylize p.png s.png -o o.png --label $'a=\\xff'"]
)
def test_arguments_that_are_not_text_are_told(real_server: ServerProcess, files: Path, line: str) -> None:
    """The protocol's texts are UTF-8."""
    assert "UTF-8" in one_line(shell(real_server, files, f"$IMPASTO {line}"))


def test_a_link_to_nowhere_is_told_before_anything_is_painted(real_server: ServerProcess, files: Path) -> None:
    (files / "link.png").symlink_to(files / "gone" / "o.png")
    before = len(jobs_of(real_server))
    told = one_line(run(real_server, files, "stylize", "p.png", "s.png", "-o", "link.png", *FAST))
    assert f"folder {files / 'gone'} does not exist" in told
    assert len(jobs_of(real_server)) == before


@pytest.mark.parametrize(
    "line", ["proto -o -", "batch p.png --style s.png -o -", "stylize p.png s.png -o o.png --preview-dir -"]
)
def test_stdout_is_no_folder(files: Path, line: str) -> None:
    """A hyphen means stdout where a file is written; no folder of that name is made."""
    before = sorted(files.iterdir())
    done = run(None, files, *line.split())
    assert (done.returncode, "'-' would be stdout, and a folder is needed" in one_line(done)) == (2, True)
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize("schedule", ["6\u00b2:3", "64", "64:", "a:b", "64:-3"])
def test_a_schedule_that_is_none_is_wrong_usage(real_server: ServerProcess, files: Path, schedule: str) -> None:
    done = run(real_server, files, "stylize", "p.png", "s.png", "-o", "o.png", "--schedule", schedule)
    assert done.returncode == 2
    assert "--schedule" in one_line(done)


def test_a_file_that_is_no_picture_is_named(real_server: ServerProcess, files: Path) -> None:
    """styles[3] does not say which of many files it is."""
    (files / "notes\u202e.txt").write_text("no picture")
    said = one_line(run(real_server, files, "stylize", "p.png", "s.png", "notes\u202e.txt", "-o", "o.png", *FAST))
    assert said == "Error: styles[1].image: is not a PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP or HEIC picture: notes.txt\n"


def test_styles_that_no_layer_weighs_are_refused(real_server: ServerProcess, files: Path) -> None:
    for layers in ("", "relu1_1=0,relu2_1=0"):
        done = run(real_server, files, "stylize", "p.png", "s.png", "-o", "o.png", *FAST, "--style-layers", layers)
        assert "style_layers" in one_line(done)


def test_what_a_mask_leaves_out_stays_to_the_pixel(real_server: ServerProcess, png: Callable[..., bytes]) -> None:
    mask = Image.new("RGBA", (48, 40), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (10, 10, 30, 30))
    outside = np.asarray(mask)[..., 3] == 0
    with impasto.Client(real_server.address) as client:
        for color in ("style", "luminance", "matched"):
            options = {"size_px": 48, "steps": 3, "levels": 1, "color": color}
            made = client.stylize(png(), png(seed=1), mask=encoded(mask), **options).image
            given = Image.open(io.BytesIO(png())).convert("RGB")
            apart = np.abs(np.asarray(made.convert("RGB")).astype(int) - np.asarray(given).astype(int))
            assert apart[outside].max() == 0
            assert apart[~outside].max() > 0


def test_an_async_client_works_on_one_event_loop_after_another(real_server: ServerProcess) -> None:
    """As notebooks and test suites use it."""
    client = impasto.AsyncClient(real_server.address)

    async def ask() -> str:
        return (await client.server_info()).version

    assert asyncio.run(ask()) == asyncio.run(ask())


def test_a_slow_link_is_alive(real_server: ServerProcess) -> None:
    """A megabyte at 100 kB/s, up with the job and in pieces: longer than any ping takes on a fast link."""
    noise = np.random.default_rng(0).integers(0, 255, (560, 600, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise))
    assert len(data) > 1_000_000
    with Link(real_server.address, bytes_per_s=100e3) as link, impasto.Client(link.address) as client:
        began = time.monotonic()
        assert client.stylize(data, encoded(Image.fromarray(noise[:40, :48])), size_px=48, steps=1, levels=1).data
        assert time.monotonic() - began > 9
        assert client.download(client.upload(data[:300_000])) == data[:300_000]


def test_a_connection_that_is_lost_costs_a_retry(real_server: ServerProcess) -> None:
    """From the first call on: up, down, and while a job is watched. Without patience it is told."""
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (180, 200, 3), dtype=np.uint8)))
    assert len(data) > 100_000
    options: dict[str, Any] = {"size_px": 48, "steps": 4, "levels": 1}
    reached: dict[str, Any] = {"cuts": 1, "cut_within": (1500, 60_000)}
    for seed in range(4):
        with Link(real_server.address, **reached, seed=seed) as link, impasto.Client(link.address) as client:
            assert client.stylize(data, data, **options).data
            assert link.cut == 1
        with Link(real_server.address, **reached, seed=seed) as link, impasto.Client(link.address) as client:
            assert client.stylize(data, data, on_step=lambda _: None, **options).data
            assert link.cut == 1
        with impasto.Client(real_server.address) as client:
            uploaded = client.upload(data)
        with Link(real_server.address, **reached, seed=seed) as link, impasto.Client(link.address) as client:
            assert client.download(uploaded) == data
            assert link.cut == 1
        with Link(real_server.address, **reached, seed=seed) as link:
            assert asyncio.run(download(link.address, uploaded)) == data
            assert link.cut == 1
        with Link(real_server.address, **reached, seed=seed) as link, impasto.Client(link.address, patience_s=0) as client:
            with pytest.raises(impasto.Unavailable, match=r"the connection to .* was lost") as caught:
                client.stylize(data, data, **options)
            assert caught.value.reason == "CONNECTION_LOST"


async def download(address: str, image: impasto.UploadedImage) -> bytes:
    async with impasto.AsyncClient(address) as client:
        return await client.download(image)


@pytest.mark.parametrize(
    ("server", "environment", "proxy"),
    [
        ("painter:50051", {"http_proxy": "http://proxy:3128"}, "http_proxy=http://proxy:3128"),
        ("painter:50051", {"https_proxy": "http://one:1", "http_proxy": "http://two:2"}, "https_proxy=http://one:1"),
        ("dns:///painter.example.org:50051", {"grpc_proxy": "http://p:1"}, "grpc_proxy=http://p:1"),
        ("painter.example.org:50051", {"http_proxy": "http://p:1", "no_proxy": "localhost,.example.org"}, ""),
        ("painter:50051", {"http_proxy": "http://p:1", "no_grpc_proxy": "painter"}, ""),
        ("127.0.0.1:50051", {"http_proxy": "http://p:1"}, ""),
        ("ipv4:127.0.0.1:50051", {"http_proxy": "http://p:1"}, ""),
        ("dns:///localhost:50051", {"http_proxy": "http://p:1"}, ""),
        ("unix:/run/impasto", {"http_proxy": "http://p:1"}, ""),
        ("painter:50051", {}, ""),
    ],
)
def test_a_proxy_is_named_where_one_is_used(
    monkeypatch: pytest.MonkeyPatch, server: str, environment: dict[str, str], proxy: str
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(server) == proxy


def test_a_proxy_that_refuses_is_told(tmp_path: Path) -> None:
    done = run(None, tmp_path, "info", "--server", "painter.invalid:50051", http_proxy="http://127.0.0.1:9", no_proxy="")
    assert "http_proxy=http://127.0.0.1:9" in one_line(done)


def test_a_machine_without_a_home_says_what_to_set(tmp_path: Path) -> None:
    """A container's random user: what needs no home works."""
    bare = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")}
    try:
        subprocess.run(["unshare", "--user", "--map-user=54321", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespaces here")
    outside = ["unshare", "--user", "--map-user=54321", *COMMAND]
    quick = [*outside, "serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--weights", "builtin"]
    for more, said in (([], "data_dir"), (["--data-dir", "~nobody-here/x"], "data_dir")):
        done = subprocess.run([*quick, *more], capture_output=True, text=True, timeout=180, env=bare, cwd=tmp_path, check=False)
        assert said in one_line(done)
    listed = subprocess.run([*outside, "weights", "list"], capture_output=True, text=True, timeout=180, env=bare, check=False)
    assert "Traceback" not in listed.stderr
    with subprocess.Popen(
        [*quick, "--data-dir", ":memory:"], stderr=subprocess.PIPE, text=True, env=bare, cwd=tmp_path
    ) as server:
        assert server.stderr
        assert any("is serving" in line for line in server.stderr)
        server.terminate()


def test_a_name_that_starts_with_a_dash_gets_a_hint(files: Path) -> None:
    """It was taken for options."""
    told = one_line(run(None, files, "stylize", "-dash.jpg", "s.png", "-o", "o.png"))
    assert "a file whose name starts with a dash is ./-dash.jpg, or follows --" in told
    assert "dash" not in one_line(run(None, files, "stylize", "p.png", "s.png", "-x", "-o", "o.png"))


def test_a_missing_file_does_not_stop_the_upload_of_the_others(real_server: ServerProcess, files: Path) -> None:
    """Their ids are printed; the exit code is 1."""
    done = run(real_server, files, "upload", "p.png", "nope.png", "s.png")
    assert "nope.png" in one_line(done)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["sha256", "sha256"]
    done = run(real_server, files, "upload", "p.png", "nope.png", "--json")
    assert list(json.loads(done.stdout)) == ["p.png"]
    assert json.loads(done.stderr)["error"]["reason"] == "UNREADABLE"
