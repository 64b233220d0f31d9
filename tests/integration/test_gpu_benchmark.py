"""The program for the first hour on a GPU, on the CPU at its smallest sizes: it must work when a GPU is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROGRAM = ROOT / "benchmarks" / "gpu.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *arguments, "--device", "cpu", "--tiny"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), "GOMP_SPINCOUNT": "1000"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["ceilings", "sync", "products", "steps", "graphs", "churn", "compare"])
def test_a_part_of_the_gpu_benchmark_writes_its_results(tmp_path: Path, part: str) -> None:
    """With the card, torch and the commit beside every figure."""
    done = run(part, "--out", str(tmp_path / "part.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "part.json").read_text())
    assert report["part"] == part
    assert report["results"]
    assert {"commit", "device", "versions", "cuda"} <= report["about"].keys()


def test_the_calls_hold_every_part_and_fit_their_time() -> None:
    """Each in ten minutes, with the start of each part."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import gpu
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    assert sorted(name for names in gpu.CALLS.values() for name in names) == sorted(gpu.PARTS)
    for names in gpu.CALLS.values():
        assert sum(gpu.PARTS[name][1] + 8 for name in names) <= 570
