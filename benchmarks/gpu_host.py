"""Parts of gpu.py that need other processes, and what the driver says about the card."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from engine import ROOT, STYLE
from gpu_parts import Run
from service import CONTENT, server

import impasto
from impasto_engine.devices import gpu_uuid

PAINT = """
import sys, time
began = time.perf_counter()
import torch
from engine import make_job
from impasto_engine.devices import prepare
from impasto_engine.painting import paint
from impasto_engine.weights import load_network
from impasto_server.workers.warm_up import warm_up
name, size, warmed = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
device = torch.device(name)
prepare(device)
network = load_network("builtin", device)
times = {"ready_s": time.perf_counter() - began}
if warmed:
    warm_up(network)
    times["warm_up_s"] = time.perf_counter() - began - times["ready_s"]
for number in ("first", "second"):
    job = make_job(network, size, steps=int(sys.argv[4]))
    start = time.perf_counter()
    paint(network, job)
    times[f"{number}_job_s"] = time.perf_counter() - start
print(times)
"""


def ask_nvml(device: torch.device) -> dict[str, Any]:
    """Return the driver, clocks, temperature and power of a GPU; nothing without one."""
    if device.type != "cuda":
        return {}
    try:
        import pynvml  # noqa: PLC0415 - not needed on a CPU

        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid(device))
        return {
            "name": str(pynvml.nvmlDeviceGetName(card)),
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "sm_mhz": pynvml.nvmlDeviceGetClockInfo(card, pynvml.NVML_CLOCK_SM),
            "memory_mhz": pynvml.nvmlDeviceGetClockInfo(card, pynvml.NVML_CLOCK_MEM),
            "celsius": pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU),
            "watts": pynvml.nvmlDeviceGetPowerUsage(card) / 1000,
        }
    except Exception as error:  # the figures are worth having without this
        return {"unknown": str(error)}


def checks(run: Run) -> dict[str, Any]:
    """Run the tests that need a GPU, then the engine's fast ones with this torch."""
    found = {}
    choices = [("gpu", ["-m", "gpu", "tests"]), ("engine", ["-m", "not gpu and not slow", "tests/unit/engine"])]
    if run.tiny:
        choices = [("gpu", ["--collect-only", "-m", "gpu", "tests/unit/engine/test_gpu.py"])]
    for name, options in choices:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        limit = 60 if run.tiny else max(5.0, run.left_s if name != "gpu" else run.left_s * 0.7)
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=limit)
            lines = done.stdout.strip().splitlines()
            failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
            found[name] = {"status": done.returncode, "summary": lines[-1:], "failed": failures, "tail": done.stdout[-3000:]}
        except subprocess.TimeoutExpired as error:
            out = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
            found[name] = {"status": f"stopped after {limit:.0f} s", "tail": out[-3000:]}
    return found


def cold_start(run: Run) -> dict[str, Any]:
    """Time the first and the second job of a new process, with and without a worker's warm-up."""
    size, steps = (32, 2) if run.tiny else (512, 100)
    found = {}
    for warmed in (False, True):
        command = [sys.executable, "-c", PAINT, str(run.device), str(size), str(int(warmed)), str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "benchmarks", timeout=60)
        found["warmed up" if warmed else "cold"] = done.stdout.strip().splitlines()[-1:] or done.stderr[-500:]
    return found


def service(run: Run) -> list[dict[str, Any]]:
    """Measure jobs per second through the service with 1, 4 and 16 in flight, interleaved."""
    size, steps, rounds = (48, 2, 1) if run.tiny else (512, 100, 3)
    counts = (1, 2) if run.tiny else (1, 4, 16)
    rates: dict[int, list[float]] = {count: [] for count in counts}
    with server("--device", str(run.device), "--weights", "builtin") as address, impasto.Client(address) as client:

        def paint(index: int) -> None:
            client.stylize(CONTENT, STYLE, size_px=size, steps=steps, seed=index)

        paint(0)
        for _ in range(rounds):
            for count in counts:
                began = time.perf_counter()
                with ThreadPoolExecutor(count) as pool:
                    list(pool.map(paint, range(count if run.tiny else 4 * count)))
                rates[count].append((count if run.tiny else 4 * count) / (time.perf_counter() - began))
            if not run.left_s:
                break
    return [
        {"in_flight": count, "pictures_per_s": round(statistics.median(seen), 3), "size_px": size, "steps": steps}
        for count, seen in rates.items()
        if seen
    ]
