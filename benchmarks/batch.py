"""Throughput of `impasto batch` against the same jobs one after another, on one server. Run by `make bench-batch`.

Rounds alternate: every pair by itself with the client, each after the end of the one before; then the same pairs with the
command, from the start of its process to its end, contact sheet included. The ratio of a round is the time of the single jobs
over the time of the batch. Above 1 the batch gains what overlaps with painting: reading, uploading, decoding, encoding, the
network. The bound is `painting_share`, the part of the batch's time in which steps run: it cannot exceed 1 on a device that
runs one job at a time, so the ratio cannot exceed 1 over `single_painting_share`, but for noise.

On a machine that does other things the seconds of a step differ from minute to minute. `ratio_at_equal_pace` compares the
seconds for each second in which steps ran, which that does not change.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engine import about

import impasto
from impasto.batch.manifest import NAME, entries

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def singles(client: impasto.Client, pairs: list[tuple[Path, Path]], options: dict[str, Any]) -> tuple[float, float]:
    """Paint each pair by itself; return the seconds, and those in which steps ran."""
    began, painting = time.perf_counter(), 0.0
    for photo, style in pairs:
        painting += client.stylize(photo, style, **options).timings.optimize_s
    return time.perf_counter() - began, painting


def batch(address: str, photos: Path, styles: Path, out: Path, options: dict[str, Any]) -> tuple[float, float]:
    """Paint all pairs with the command; return the seconds, and those in which steps ran."""
    flags = ["--size", str(options["size_px"]), "--steps", str(options["steps"]), "--seed", str(options["seed"]), "--quiet"]
    command = [sys.executable, "-m", "impasto", "batch", str(photos), "--style", str(styles), "-o", str(out), *flags]
    began = time.perf_counter()
    subprocess.run(command, env={**os.environ, "IMPASTO_SERVER": address}, check=True, capture_output=True)
    took = time.perf_counter() - began
    return took, sum(line["seconds"]["optimize"] for line in entries(out / NAME))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--styles", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    from tests.conftest import ServerProcess  # noqa: PLC0415 - found by the path above
    from tests.soak.batches import draw_pictures  # noqa: PLC0415

    rows = []
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        draw_pictures(where / "photos", where / "styles", arguments.photos, arguments.styles, 2 * arguments.size)
        pairs = list(itertools.product(sorted((where / "photos").iterdir()), sorted((where / "styles").iterdir())))
        server = ServerProcess("--data-dir", str(where / "data"))
        try:
            with impasto.Client(server.address) as client:
                client.stylize(*pairs[0], size_px=arguments.size, steps=arguments.steps)  # warms up
                for number in range(arguments.rounds):
                    options = {"size_px": arguments.size, "steps": arguments.steps, "seed": number}
                    single_s, single_painting_s = singles(client, pairs, options)
                    batch_s, batch_painting_s = batch(
                        server.address, where / "photos", where / "styles", where / f"out-{number}", options
                    )
                    rows.append(
                        {
                            "single_s": single_s,
                            "batch_s": batch_s,
                            "ratio": single_s / batch_s,
                            "ratio_at_equal_pace": (single_s / single_painting_s) / (batch_s / batch_painting_s),
                            "painting_share": batch_painting_s / batch_s,
                            "single_painting_share": single_painting_s / single_s,
                            "load": os.getloadavg()[0],
                        }
                    )
                    print({key: round(value, 3) for key, value in rows[-1].items()}, flush=True)
        finally:
            server.stop()
    ratio = statistics.median(row["ratio"] for row in rows)
    equal = statistics.median(row["ratio_at_equal_pace"] for row in rows)
    share = statistics.median(row["painting_share"] for row in rows)
    print(f"{len(pairs)} pictures: a batch takes 1/{ratio:.3f} of the time of single jobs; steps run in {share:.3f} of it")
    print(f"at equal seconds for a step, whatever else the machine does: 1/{equal:.3f}")
    result = {**about(), "pairs": len(pairs), "size_px": arguments.size, "steps": arguments.steps, "median_ratio": ratio}
    result |= {"median_ratio_at_equal_pace": equal, "median_painting_share": share, "rounds": rows}
    (ROOT / "benchmarks/results/batch.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
