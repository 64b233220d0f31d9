"""A real server with its page, and browsers on it. Run by `make test-web`."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.driver import CHROMEDRIVER, CHROMIUM, Page, browser
from tests.conftest import ServerProcess

HERE = Path(__file__).parent
TIMEOUT_S = 300
"""Of a test: servers and browsers take their time on a busy machine."""
AXE = HERE / "node_modules/axe-core/axe.min.js"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
            if not (CHROMIUM and CHROMEDRIVER):
                item.add_marker(pytest.mark.skip(reason="needs Chromium and chromedriver"))


def page_of(server: ServerProcess) -> str:
    """Return the address of the page that a server said."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if found := re.findall(r"impasto page at (\S+)", "".join(server.log)):
            return str(found[-1])
        time.sleep(0.05)
    raise AssertionError("the server did not say where its page is:\n" + "".join(server.log))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def painter() -> Iterator[ServerProcess]:
    """Return a server with its page."""
    server = ServerProcess("--web", "127.0.0.1:0")
    yield server
    if server.process.poll() is None:
        assert server.stop() == 0


@pytest.fixture
def page(painter: ServerProcess) -> Iterator[Page]:
    """Return the page in a new browser. It may have broken no rule of its content security policy at the end."""
    with browser(page_of(painter)) as opened:
        opened.open()
        yield opened
        assert opened.violations() == []


class WebProcess:
    """`impasto web` as users start it, before a server at an address."""

    def __init__(self, server: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "impasto", "web", "--listen", "127.0.0.1:0", "--server", server, *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        for line in self.process.stderr:
            if found := re.search(r"impasto page at (\S+)", line):
                self.url = found[1]
                return
        raise AssertionError("the gateway did not start")

    def stop(self) -> int:
        self.process.terminate()
        assert self.process.stderr
        with self.process.stderr:
            return self.process.wait(60)
