"""``impasto serve --web``: the page is a process of its own."""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx
import psutil
import pytest

from impasto_server.auth.tokens import new_token
from impasto_server.config import ConfigError, ServerConfig
from impasto_server.web import missing
from tests.conftest import ServerProcess


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


def test_settings_that_cannot_work_are_rejected() -> None:
    """Client certificates cannot be passed on; an address needs a port."""
    with pytest.raises(ConfigError, match="web must be HOST:PORT"):
        ServerConfig(web="8080")
    with pytest.raises(ConfigError, match="web does not go with tls_client_ca"):
        ServerConfig(web="127.0.0.1:8080", tls_cert="a", tls_key="b", tls_client_ca="c")
    assert missing() == ""
