"""What works without what a system may lack: fcntl, SIGHUP, a known user. Linux stands in for the others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ServerProcess

LIKE_WINDOWS = """
import signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL", "SIGUSR1"):
    delattr(signal, name)
from impasto.cli import main
main()
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=180, check=False)


def test_the_client_needs_nothing_that_windows_lacks(
    real_server: ServerProcess, tmp_path: Path, png: Callable[..., bytes]
) -> None:
    """It paints, watches and runs a load test."""
    for name, seed in (("p.png", 0), ("s.png", 1)):
        (tmp_path / name).write_bytes(png(seed=seed))
    files, server = [str(tmp_path / "p.png"), str(tmp_path / "s.png")], ["--server", real_server.address]
    small = ["--size", "48", "--steps", "3", "--levels", "1"]
    done = run(LIKE_WINDOWS, "stylize", *files, "-o", str(tmp_path / "o.png"), *small, *server)
    assert (done.returncode, (tmp_path / "o.png").exists()) == (0, True), done.stderr
    done = run(LIKE_WINDOWS, "load", "--jobs", "2", "--size", "48", "--steps", "2", *server)
    assert done.returncode == 0, done.stderr


def test_the_server_says_where_it_does_not_run() -> None:
    """In one line, not with a missing module."""
    done = run(LIKE_WINDOWS, "serve", "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the server needs Linux or macOS")
    assert len(done.stderr.splitlines()) == 1


def test_the_module_is_the_command() -> None:
    """`python -m impasto` is what works where no script is on the path."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "impasto", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("python -m impasto, version")


@pytest.mark.parametrize("value", ["nowhere/at/all", "mps", "cuda:7"])
def test_devices_that_are_not_here_are_named(value: str) -> None:
    """With those that are."""
    done = run("from impasto.cli import main; main()", "serve", "--device", value)
    assert done.returncode == 1
    assert f"device {value!r}: not available; available devices: cpu" in done.stderr
