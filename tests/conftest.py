"""Fixtures that every part shares: small pictures, a fake worker, and a real server in a process of its own."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

if importlib.util.find_spec("torch"):  # the client's tests run without it
    from jaxtyping import install_import_hook

    import impasto_engine.threads  # noqa: F401 - sets how threads wait, before torch is loaded

    install_import_hook("impasto_engine", "beartype.beartype")

ROOT = Path(__file__).parents[1]


JPEG = b"\xff\xd8\xff"
"""How a file begins that the client takes for a picture."""


def picture(width: int = 48, height: int = 40, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Return a smooth picture with some structure, the same for the same seed."""
    small = Image.effect_noise((8, 8), 80 + seed)
    bands = [small.rotate(90 * (seed + turn)).resize((width, height), Image.Resampling.BICUBIC) for turn in range(3)]
    gradient = Image.linear_gradient("L").resize((width, height)).rotate(40 * seed)
    mixed = [Image.blend(band, gradient, 0.5) for band in bands]
    return Image.merge("RGB", mixed).convert(mode)


def encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """Return the picture as a file."""
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def opened(path: Path) -> tuple[str, tuple[int, int]]:
    """Return a picture file's format and size, and leave no file open."""
    with Image.open(path) as image:
        image.load()
        return image.format or "", image.size


# Image.effect_noise has no seed: draw the base pictures once, so that a session's pictures are the same.
_DRAWN = {seed: encoded(picture(64, 64, seed)) for seed in range(6)}


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """Return a function that makes PNG files by size and seed."""

    def make(width: int = 48, height: int = 40, seed: int = 0) -> bytes:
        with Image.open(io.BytesIO(_DRAWN[seed])) as drawn:
            return encoded(drawn.resize((width, height)))

    return make


def wait_until(check: Callable[[], object], what: str) -> None:
    """Wait, blocking, until a check holds; at most two minutes."""
    until = time.monotonic() + 120
    while not check():
        assert time.monotonic() < until, what
        time.sleep(0.05)


class ServerProcess:
    """`impasto serve` as users start it, on a free port."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        if "--data-dir" not in arguments:
            arguments = (*arguments, "--data-dir", ":memory:")
        command = [sys.executable, "-c", "from impasto.cli import main; main()", "serve", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, "--device", "cpu", "--weights", "builtin", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
        )
        self.log: list[str] = []
        self.address = self._wait_for_address()
        self._reader = threading.Thread(target=self._keep_reading, daemon=True)
        self._reader.start()

    def _wait_for_address(self) -> str:
        assert self.process.stderr
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r'serving on ([^\s"]+)', line):
                return found.group(1)
        raise AssertionError("the server did not start:\n" + "".join(self.log))

    def _keep_reading(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            self.log.extend(lines)

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(40)
            self._reader.join(5)
            return code
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture(scope="session")
def real_server() -> Iterator[ServerProcess]:
    """Return a running server with built-in weights on the CPU."""
    server = ServerProcess()
    yield server
    if server.process.poll() is None:
        assert server.stop() == 0
