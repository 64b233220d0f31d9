"""What a checkpoint of a running job costs: everything in one file, against the pairs that are new since the last one.

    python benchmarks/checkpoints.py --size 512 --new 14 --rounds 9 --folder /tmp

The two take turns. A cost is what the server charges: the time of the copy, plus the thread time of the write times the factor
by which that slows the steps. Pairs are random: only their sizes matter.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import xxhash
from engine import CPU

from impasto_engine.devices import prepare
from impasto_engine.optimizers import HISTORY, OPTIMIZERS, State
from impasto_engine.samples import SampleState, Snapshot
from impasto_engine.slots import Slots
from impasto_engine.streams import Marker
from impasto_server.workers import checkpoints
from impasto_server.workers.checkpoints import Checkpoint
from impasto_server.workers.pairs import Ledger
from impasto_server.workers.saving import COST_SHARE, CPU_CONTENTION

HASHES: dict[str, Callable[[Any], object]] = {"xxh3_128": xxhash.xxh3_128, "crc32": zlib.crc32, "sha256": sha256}


def measured(act: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a result, and how long it took by the clock and by the thread's time."""
    began, before = time.perf_counter(), time.thread_time()
    result = act()
    return result, time.perf_counter() - began, time.thread_time() - before


def remember(state: State) -> None:
    """Put a new pair into the history, as an update does."""
    place, history = int(state["next"]), int(state["history"])
    for name in HISTORY:
        state[name][0, place].uniform_()
    state["next"] = (state["next"] + 1) % history
    state["count"] = (state["count"] + 1).clamp_max(history)


def checkpoint(slots: Slots, step: int, path: Path, ledger: Ledger | None) -> dict[str, float]:
    """Copy and write a state as a worker does; return the cost and its parts."""

    def copy() -> SampleState:
        since = None if ledger is None or ledger.step is None else step - ledger.step
        return Snapshot("lbfgs", step, slots.row(0, since), Marker(CPU)).fetch()

    gc.collect()
    state, copy_s, copy_thread_s = measured(copy)
    size, write_s, thread_s = measured(partial(checkpoints.write, path, Checkpoint("job", state), ledger))
    row = {"bytes": size, "copy_s": copy_s, "copy_thread_s": copy_thread_s, "write_s": write_s, "write_thread_s": thread_s}
    return row | {"cost_s": copy_s + CPU_CONTENTION * thread_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--new", type=int, default=14, help="steps between two checkpoints")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where the files are written")
    arguments = parser.parse_args()
    prepare(CPU)
    torch.manual_seed(0)
    canvas = torch.rand(1, 3, arguments.size, arguments.size)
    slots, step = Slots(), 0
    slots.add(OPTIMIZERS["lbfgs"].start(canvas, 1.0, 40))
    rows: dict[str, list[dict[str, float]]] = {"whole": [], "new pairs": []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        one, parts = Path(folder) / "whole", Path(folder) / "parts"
        ledger = Ledger(parts, 0)
        for number in range(arguments.rounds + 4):
            for _ in range(arguments.new):
                step += 1
                remember(slots.state)
            found = {"whole": checkpoint(slots, step, one, None), "new pairs": checkpoint(slots, step, parts, ledger)}
            if number >= 4:  # the ring is full by now
                for kind, row in found.items():
                    rows[kind].append(row)
        report = {kind: {name: statistics.median(row[name] for row in each) for name in each[0]} for kind, each in rows.items()}
        files = sorted((file.name, os.stat(file).st_size) for file in Path(folder).iterdir())
    data = memoryview(slots.state[HISTORY[0]][0, : arguments.new].numpy()).cast("B")
    for kind, row in report.items():
        row["interval_s"] = COST_SHARE * row["cost_s"]
        print(kind, json.dumps({name: round(value, 4) for name, value in row.items()}))
    for name, digest in HASHES.items():
        times = [measured(partial(digest, data))[2] for _ in range(arguments.rounds)]
        print(f"{name}: {len(data) / statistics.median(times) / 1e9:.1f} GB/s of thread time")
    print(files)


if __name__ == "__main__":
    main()
