"""Stops as terminals and service managers send them: to the whole process group, and at any time."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

import impasto
from tests.conftest import ServerProcess, wait_until

Png = Callable[..., bytes]
STOPS = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]
SERVE = [sys.executable, "-m", "impasto", "serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--weights", "builtin"]


def signal_all(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Signal a program and its children, as a terminal does."""
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(number)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_to_the_whole_group_leaves_jobs_their_grace_time(png: Png, tmp_path: Path, number: signal.Signals) -> None:
    """No worker ends before its job has; the page answers meanwhile, and the gauges go on."""
    where = ("--data-dir", str(tmp_path / "data"), "--web", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    server = ServerProcess(*where, "--grace-s", "60")
    try:
        with impasto.Client(server.address) as client:
            endless: impasto.Options = {"size_px": 32, "steps": 9999, "optimizer": "adam"}
            job = client.submit(png(), png(seed=1), **endless, time_limit_s=10, on_deadline="return_best")
            wait_until(lambda: job.info().state == "running", "it runs")
            waiting = [client.submit(png(), png(seed=2), **endless, priority=-1) for _ in range(3)]
            address = re.findall(r"http://\S+/metrics", "".join(server.log))[0]
            signal_all(server.process, number)
            waiting[0].cancel()
            wait_until(lambda: "impasto_queue_depth 2.0" in httpx.get(address, trust_env=False).text, "the gauge follows")
            ended = job.result(60).job
        assert (ended.state, ended.stop_reason, ended.attempts) == ("succeeded", "deadline", 1)
        assert server.process.wait(120) == 0
    finally:
        if server.process.poll() is None:
            server.process.kill()
    assert not [line for line in server.log if "ERROR" in line or "Traceback" in line or "Warning" in line]


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_to_the_whole_group_at_the_start_is_a_clean_stop(tmp_path: Path, number: signal.Signals) -> None:
    """While workers and the page still import their libraries."""
    command = [*SERVE, "--data-dir", str(tmp_path / "data"), "--web", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        before = next(line for line in process.stderr if "listening on" in line)
        wait_until(lambda: len(psutil.Process(process.pid).children()) >= 2, "children")
        signal_all(process, number)
        _, rest = process.communicate(timeout=120)
    assert process.returncode == 0, before + rest
    assert "Traceback" not in rest
    assert "ERROR" not in rest


@pytest.mark.parametrize("number", STOPS)
def test_a_gateway_ends_normally_and_quietly(real_server: ServerProcess, number: signal.Signals) -> None:
    """Its exit code is 0, as a server's."""
    command = [sys.executable, "-m", "impasto", "web", "--listen", "127.0.0.1:0", "--server", real_server.address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any("impasto page at" in line for line in process.stderr)
        process.send_signal(number)
        _, rest = process.communicate(timeout=120)
    assert (process.returncode, rest) == (0, "")


@pytest.mark.parametrize("number", STOPS)
def test_a_gateway_waits_for_requests_in_progress(real_server: ServerProcess, png: Png, number: signal.Signals) -> None:
    """Within its grace time."""
    command = [sys.executable, "-m", "impasto", "web", "--listen", "127.0.0.1:0", "--server", real_server.address]
    with subprocess.Popen([*command, "--grace-s", "60"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        url = next(line.split()[-1] for line in process.stderr if "impasto page at" in line)
        files = [("content", ("photo.png", png())), ("style", ("style.png", png(seed=1)))]
        limited = {"size_px": "32", "steps": "9999", "optimizer": "adam", "time_limit": "5", "on_deadline": "RETURN_BEST"}
        client = httpx.Client(base_url=url, trust_env=False, timeout=180)
        with client, ThreadPoolExecutor(1) as pool, impasto.Client(real_server.address) as direct:
            painting = pool.submit(client.post, "v1/stylize", files=files, data=limited)
            wait_until(lambda: list(direct.jobs(["running"])), "a job runs")
            process.send_signal(number)
            answer = painting.result(60)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        _, rest = process.communicate(timeout=120)
    assert (process.returncode, rest) == (0, "")


def test_a_picture_is_painted_though_its_server_is_replaced(png: Png, tmp_path: Path) -> None:
    """The first and only call of a client waits for the next server, which goes on with the job."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        where = ("--listen", f"127.0.0.1:{probe.getsockname()[1]}", "--data-dir", str(tmp_path / "data"), "--grace-s", "0")
    first = ServerProcess(*where)
    with ThreadPoolExecutor(1) as pool, impasto.Client(first.address, patience_s=120) as client:
        limited: impasto.Options = {"size_px": 32, "steps": 9999, "optimizer": "adam", "time_limit_s": 30}
        painting = pool.submit(client.stylize, png(), png(seed=1), **limited, on_deadline="return_best")
        with impasto.Client(first.address) as other:
            wait_until(lambda: list(other.jobs(["running"])), "it runs")
        assert first.stop() == 0
        second = ServerProcess(*where)
        try:
            job = painting.result(100).job
        finally:
            assert second.stop() == 0
    assert (job.state, job.attempts) == ("succeeded", 2)
