"""The examples in other languages compile strictly, and do what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from impasto_server.auth.tokens import new_token
from tests.conftest import ROOT, ServerProcess
from tests.links import Link

EXAMPLE = ROOT / "examples/typescript"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the example in TypeScript as its first lines and the docs say."""
    if shutil.which("node") is None or not (EXAMPLE / "node_modules/.installed").exists():
        pytest.skip("node or the example's packages are not here: run make test")
    folder = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "tsconfig.json", "paint.ts"):
        shutil.copy(EXAMPLE / name, folder)
    (folder / "node_modules").symlink_to(EXAMPLE / "node_modules")
    subprocess.run([sys.executable, "-m", "impasto", "proto", "-o", str(folder / "protos")], check=True, capture_output=True)
    done = subprocess.run(["npm", "run", "build"], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def paint(built: Path, address: str, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["node", str(built / "build/paint.js"), address, "p.png", "s.png", "o.png"]
    given = {"PATH": os.environ["PATH"], "SIZE": "48", "STEPS": "30", **environment}
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=100, env=given, check=False)


def test_the_typescript_example_paints_over_a_bad_link(built: Path, tmp_path: Path, png: Callable[..., bytes]) -> None:
    """With a token: it submits, watches every step once, resumes where the connection was lost, and decodes errors."""
    (tmp_path / "p.png").write_bytes(png())
    (tmp_path / "s.png").write_bytes(png(seed=1))
    token, line = new_token("ann")
    (tmp_path / "tokens").write_text(line + "\n")
    server = ServerProcess("--tokens", str(tmp_path / "tokens"))
    try:
        done = paint(built, server.address, tmp_path)
        assert done.returncode == 1
        assert "TOKEN_MISSING" in done.stderr
        done = paint(built, server.address, tmp_path, IMPASTO_TOKEN=token, SIZE="5")
        assert (done.returncode, done.stderr.strip().split(" | ")[1:]) == (1, ["INVALID_FIELD", "parameters.size_px"])
        for seed in range(3):
            with Link(server.address, cuts=1, cut_within=(9_000, 16_000), seed=seed) as link:
                done = paint(built, link.address, tmp_path, IMPASTO_TOKEN=token)
                assert done.returncode == 0, done.stderr
                assert link.cut == 1
            steps = [int(line.split()[1]) for line in done.stdout.splitlines()]
            assert steps == list(range(1, 31))
            with Image.open(tmp_path / "o.png") as image:
                assert max(image.size) == 48
    finally:
        assert server.stop() == 0
