"""The page's own SHA-256, for browsers without a secure connection."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULE = ROOT / "client/impasto/web/static/sha256.js"
SCRIPT = """
import { computed } from "./sha256.mjs";
const digests = [0, 1, 3, 55, 56, 63, 64, 65, 1000, 70001].map((length) =>
  Buffer.from(computed(Uint8Array.from({ length }, (_, index) => (index * 7) % 251))).toString("hex"));
console.log(digests.join("\\n"));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node")
def test_it_is_sha256(tmp_path: Path) -> None:
    """For lengths around the block's."""
    (tmp_path / "sha256.mjs").write_text(MODULE.read_text())
    (tmp_path / "run.mjs").write_text(SCRIPT)
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    lengths = (0, 1, 3, 55, 56, 63, 64, 65, 1000, 70001)
    wanted = [hashlib.sha256(bytes(index * 7 % 251 for index in range(length))).hexdigest() for length in lengths]
    assert done.stdout.split() == wanted
