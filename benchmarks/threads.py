"""Cost and benefit of limited spinning in OpenMP threads, alone and alongside other load. Run by `make bench-threads`.

Each round paints the same small picture in a fresh process, alternating between OpenMP's default and the engine's setting:
alone, next to one, two and four busy processes, and twice concurrently (the slower of the two is reported). The table shows
the medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from engine import ROOT, about
from textbook import CPU

from impasto_engine.threads import WAITING
from impasto_engine.weights import load_network

PAINT = """
import time, torch
from impasto_engine import painting
from impasto_engine.devices import keep_freed_memory
from impasto_engine.parameters import Parameters
from impasto_engine.weights import load_network
keep_freed_memory()
network = load_network("builtin", torch.device("cpu"))
pixels = (torch.rand(192, 256, 3, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
job = painting.Job(192, 256, pixels, (painting.Style(pixels.flip(0)),), Parameters(size_px=256, steps=15))
painting.paint(network, job, lambda step: step.step == 2)
began = time.perf_counter()
painting.paint(network, job)
print(time.perf_counter() - began)
"""
SETTINGS = {"default": {"OMP_WAIT_POLICY": ""}, "engine": WAITING}
BESIDE = (0, 1, 2, 4)


def environment(setting: str) -> dict[str, str]:
    """Return the environment of a painting process. An empty wait policy prevents the engine from setting anything."""
    bare = {name: value for name, value in os.environ.items() if name not in WAITING}
    return {**bare, **SETTINGS[setting]}


def paint(setting: str) -> float:
    """Return the run time of a painting in a separate process, in seconds."""
    command = [sys.executable, "-c", PAINT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(setting), cwd=ROOT)
    return float(done.stdout)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run the given number of busy processes."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.2)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def both(setting: str) -> float:
    """Return the run time of the slower of two concurrent paintings, in seconds."""
    with ThreadPoolExecutor(2) as pool:
        return max(pool.map(paint, [setting] * 2))


def main() -> None:
    """Measure, print the table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    seen: dict[str, dict[str, list[float]]] = {setting: {} for setting in SETTINGS}
    for number in range(rounds):
        for count in BESIDE:
            for setting in SETTINGS:
                with busy(count):
                    seen[setting].setdefault(f"beside {count}", []).append(paint(setting))
        for setting in SETTINGS:
            seen[setting].setdefault("two at once", []).append(both(setting))
        print(f"round {number + 1} of {rounds}: {seen}", flush=True)
    rows = {
        setting: {name: round(statistics.median(values), 2) for name, values in times.items()}
        for setting, times in seen.items()
    }
    for name in rows["engine"]:
        default, engine = rows["default"][name], rows["engine"][name]
        print(f"{name:12s} default {default:6.2f} s, engine's {engine:6.2f} s, ratio {default / engine:.2f}")
    target = ROOT / "benchmarks" / "results" / "threads.json"
    report = {**about(load_network("builtin", CPU)), "setting": WAITING, "seconds": rows, "all": seen}
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(f"results: {target}")


if __name__ == "__main__":
    main()
