"""``impasto serve --web``: the page is a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

import impasto
from impasto_server.auth.tokens import new_token
from impasto_server.config import ConfigError, ServerConfig
from impasto_server.web import missing
from tests.conftest import ServerProcess, wait_until


def gateway(server: ServerProcess) -> psutil.Process | None:
    children = psutil.Process(server.process.pid).children()
    return next((child for child in children if "--until-eof" in child.cmdline()), None)


def page(server: ServerProcess, count: int) -> str:
    """Return the page's address once it was said so many times."""
    until = time.monotonic() + 60
    while len(found := re.findall(r"impasto page at (\S+)", "".join(server.log))) < count:
        assert time.monotonic() < until, "".join(server.log)
        time.sleep(0.05)
    return str(found[-1])


def test_the_page_beside_a_server_checks_tokens_and_may_crash(tmp_path: Path) -> None:
    """Over its private socket callers are who their token says; killed, it comes back; stopped, all of it is gone."""
    token, line = new_token("ann")
    (tmp_path / "tokens").write_text(line)
    server = ServerProcess("--web", "127.0.0.1:0", "--tokens", str(tmp_path / "tokens"))
    try:
        url = page(server, 1)
        assert httpx.get(f"{url}v1/info", trust_env=False).status_code == 401
        first = gateway(server)
        assert first
        first.kill()
        url = page(server, 2)
        answer = httpx.get(f"{url}v1/info", headers={"authorization": f"Bearer {token}"}, trust_env=False)
        assert answer.json()["accepting"] is True
        second = gateway(server)
        assert second
    finally:
        assert server.stop() == 0
    assert not second.is_running()


def test_pictures_asked_for_over_http_are_painted_while_the_server_drains(png: Callable[..., bytes]) -> None:
    """Ctrl-C in a terminal reaches the page too, which stays until the jobs have ended; new jobs are refused."""
    server = ServerProcess("--web", "127.0.0.1:0", "--grace-s", "60")
    try:
        url = page(server, 1)
        files = [("content", ("photo.png", png())), ("style", ("style.png", png(seed=1)))]
        limited = {"size_px": "32", "steps": "9999", "optimizer": "adam", "time_limit": "8", "on_deadline": "RETURN_BEST"}
        client = httpx.Client(base_url=url, trust_env=False, timeout=180)
        with client, ThreadPoolExecutor(1) as pool:
            painting = pool.submit(client.post, "v1/stylize", files=files, data=limited)
            wait_until(lambda: client.get("v1/info").json().get("queue", {}).get("running") == 1, "it runs")
            beside = gateway(server)
            assert beside
            beside.send_signal(signal.SIGINT)
            server.process.send_signal(signal.SIGINT)
            wait_until(lambda: client.get("readyz").status_code == 503, "it drains")
            refused = client.post("v1/jobs", files=files)
            assert (refused.status_code, refused.json()["details"][0]["reason"]) == (503, "DRAINING")
            assert "retry-after" in refused.headers
            painted = painting.result(60)
            assert (painted.status_code, painted.headers["content-type"]) == (200, "image/png")
        assert server.process.wait(120) == 0
    finally:
        if server.process.poll() is None:
            server.stop()
    assert "Traceback" not in "".join(server.log)


def test_a_gateway_that_stops_says_so_to_those_it_cannot_wait_for(
    real_server: ServerProcess, png: Callable[..., bytes]
) -> None:
    """After its grace time; the job of a request that waits for its picture ends with it."""
    command = [sys.executable, "-m", "impasto", "web", "--listen", "127.0.0.1:0", "--server", real_server.address]
    with subprocess.Popen([*command, "--grace-s", "1"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        line = next(line for line in process.stderr if "impasto page at" in line)
        files = [("content", ("photo.png", png())), ("style", ("style.png", png(seed=1)))]
        endless = {"size_px": "32", "steps": "9999", "optimizer": "adam"}
        client = httpx.Client(base_url=line.split()[-1], trust_env=False, timeout=180)
        with client, ThreadPoolExecutor(1) as pool, impasto.Client(real_server.address) as direct:
            painting = pool.submit(client.post, "v1/stylize", files=files, data=endless)
            wait_until(lambda: list(direct.jobs(["running"])), "it runs")
            process.terminate()
            ended = painting.result(60)
            assert (ended.status_code, ended.json()["details"][0]["reason"]) == (503, "DRAINING")
            assert "retry-after" in ended.headers
            wait_until(lambda: not list(direct.jobs(["running"])), "its job ends")
        assert "Traceback" not in process.stderr.read()


def test_settings_that_cannot_work_are_rejected() -> None:
    """Client certificates cannot be passed on; an address needs a port."""
    with pytest.raises(ConfigError, match="web must be HOST:PORT"):
        ServerConfig(web="8080")
    with pytest.raises(ConfigError, match="web does not go with tls_client_ca"):
        ServerConfig(web="127.0.0.1:8080", tls_cert="a", tls_key="b", tls_client_ca="c")
    assert missing() == ""
