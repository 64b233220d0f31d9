"""The program for the first hour on a GPU, on the CPU at its smallest sizes: it must work when a GPU is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "benchmarks"
PARTS = ("sync", "products", "steps", "profile", "layouts", "graphs", "churn", "compare", "race")
"""The parts that need no other process."""
ALL = """
import json, sys
import impasto_engine.threads
import gpu
print(json.dumps({name: gpu.measured(name, "cpu", tiny=True) for name in sys.argv[1:]}))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=FOLDER, env=environment
    )


def test_a_part_of_the_gpu_benchmark_writes_its_results(tmp_path: Path) -> None:
    """With the device, torch and the commit beside every figure."""
    done = run("gpu.py", "ceilings", "--device", "cpu", "--tiny", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "gpu-ceilings.json").read_text())
    assert report["part"] == "ceilings"
    assert report["results"]["tflops"] > 0
    assert {"commit", "device", "versions", "cuda"} <= report["about"].keys()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_every_part_of_the_gpu_benchmark_runs() -> None:
    """On the CPU, at its smallest sizes: it gives figures, which mean nothing there."""
    done = run("-c", ALL, *PARTS)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: report["results"] for name, report in json.loads(done.stdout.splitlines()[-1]).items()}
    assert all(found[name] for name in PARTS)
    assert {row["batch"] for row in found["steps"]} <= {1, 2}
    assert all(row["wall_ms"] > 0 for row in found["steps"])
    assert all(row["whole_ms"] > 0 and row["chunked_ms"] > 0 for row in found["products"])
    assert all(row["joined_difference"] == 0 for row in found["graphs"]), "a CPU records nothing"
    assert found["churn"]["joined"] >= 1


def test_the_calls_hold_every_part_and_fit_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in ten minutes, with the start of each part."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu

    assert sorted(name for names in gpu.CALLS.values() for name in names) == sorted(gpu.PARTS)
    for names in gpu.CALLS.values():
        assert sum(gpu.PARTS[name][1] + 8 for name in names) <= 570
