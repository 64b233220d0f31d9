"""What every example of a client must do, whatever its language."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from impasto_server.auth.tokens import new_token
from tests.conftest import ServerProcess
from tests.links import Link

LINKS = 2
"""Bad links that are tried; each is cut at another byte."""


def check_example(
    command: Sequence[str | Path],
    where: Path,
    png: Callable[..., bytes],
    *serve: str,
    cut_within: tuple[int, int],
    **trusted: str,
) -> None:
    """Check that an example submits, watches every step once, resumes where the connection was lost, and decodes errors.

    Args:
        command: The example, without its arguments.
        where: An empty folder.
        png: Draws a picture.
        serve: Options of the server, beside tokens.
        cut_within: Fewest and most bytes after which its connection is cut; it must still be open then.
        trusted: Variables that let it trust the server.
    """
    (where / "p.png").write_bytes(png())
    (where / "s.png").write_bytes(png(seed=1))
    token, line = new_token("ann")
    (where / "tokens").write_text(line + "\n")

    def run(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"PATH": os.environ["PATH"], "SIZE": "48", "STEPS": "30", **trusted, **environment}
        full = [*map(str, command), address, "p.png", "s.png", "o.png"]
        return subprocess.run(full, cwd=where, capture_output=True, text=True, timeout=100, env=given, check=False)

    server = ServerProcess("--tokens", str(where / "tokens"), *serve)
    try:
        done = run(server.address)
        assert done.returncode == 1
        assert "TOKEN_MISSING" in done.stderr
        done = run(server.address, IMPASTO_TOKEN=token, SIZE="5")
        assert (done.returncode, done.stderr.strip().split(" | ")[1:]) == (1, ["INVALID_FIELD", "parameters.size_px"])
        for seed in range(LINKS):
            with Link(server.address, cuts=1, cut_within=cut_within, seed=seed) as link:
                done = run(link.address, IMPASTO_TOKEN=token)
                assert done.returncode == 0, done.stderr
                assert link.cut == 1
            steps = [int(line.split()[1]) for line in done.stdout.splitlines()]
            assert steps == list(range(1, 31))
            with Image.open(where / "o.png") as image:
                assert max(image.size) == 48
            (where / "o.png").unlink()
    finally:
        assert server.stop() == 0
