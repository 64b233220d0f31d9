"""The examples in other languages compile strictly, and do what they say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.paints import check_example

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


def test_the_typescript_example_paints_over_a_bad_link(built: Path, tmp_path: Path, png: Callable[..., bytes]) -> None:
    """With a token: it submits, watches every step once, resumes where the connection was lost, and decodes errors."""
    check_example(["node", built / "build/paint.js"], tmp_path, png, cut_within=(9_000, 16_000))


def test_the_python_example_paints_over_a_bad_link(tmp_path: Path, png: Callable[..., bytes]) -> None:
    """The same, where the client resumes by itself."""
    check_example([sys.executable, ROOT / "examples/python/paint.py"], tmp_path, png, cut_within=(9_000, 14_000))
