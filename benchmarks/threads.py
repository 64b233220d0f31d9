"""What waiting without spinning costs alone and gives beside other work. `make bench-threads` runs it.

Each round paints the same small picture in a fresh process, with OpenMP's default and with the engine's setting in turns:
alone, beside one, two and four processes that only count, and two paintings at once (the slower of both is told). The table
has the medians of the rounds.
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

from textbook import CPU

from engine import ROOT, about
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
    """Return the environment of a painting process; an empty wait policy keeps the engine from setting anything."""
    bare = {name: value for name, value in os.environ.items() if name not in WAITING}
    return {**bare, **SETTINGS[setting]}


def paint(setting: str) -> float:
    """Return the seconds that a painting takes in a process of its own."""
    command = [sys.executable, "-c", PAINT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(setting), cwd=ROOT)
    return float(done.stdout)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes counting meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.2)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def both(setting: str) -> float:
    """Return the seconds of the slower of two paintings at once."""
    with ThreadPoolExecutor(2) as pool:
        return max(pool.map(paint, [setting] * 2))


def main() -> None:
    """Measure, print the table, write the results."""
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
    print(f"figures: {target}")


if __name__ == "__main__":
    main()
