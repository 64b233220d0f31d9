"""What a GPU can tell in its first half hour: one command for the first ten minutes, one for the second. docs/lab/gpu.md.

    python benchmarks/gpu.py first --out FOLDER     # in one call of ten minutes
    python benchmarks/gpu.py second --out FOLDER    # in another
    python benchmarks/gpu.py steps                  # or any part alone

Each part is a process with a limit of time: one that hangs or fails costs only itself. The results are written after each
part, with the card, its driver and clocks, torch and the commit. With ``--device cpu --tiny`` every part runs without a GPU;
such figures mean nothing, and show only that the program works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from engine import about
from gpu_host import ask_nvml, checks, cold_start, service
from gpu_parts import Run, ceilings, churn, compare, graphs, layouts, products, profile, steps, synchronisations
from gpu_race import textbook_race

from impasto_engine.devices import describe, find_devices, prepare

PARTS: Mapping[str, tuple[Callable[[Run], Any], int]] = {
    "ceilings": (ceilings, 30),
    "sync": (synchronisations, 30),
    "products": (products, 45),
    "steps": (steps, 100),
    "profile": (profile, 45),
    "layouts": (layouts, 60),
    "cold": (cold_start, 45),
    "checks": (checks, 120),
    "service": (service, 150),
    "graphs": (graphs, 60),
    "race": (textbook_race, 120),
    "churn": (churn, 60),
    "compare": (compare, 90),
}
"""Each part, and its limit in seconds."""
CALLS = {
    "first": ("ceilings", "sync", "products", "steps", "profile", "layouts", "cold", "checks"),
    "second": ("service", "graphs", "race", "churn", "compare"),
}
"""What one call of ten minutes holds, the most telling first."""
START_S = 25
"""Time that a part's process may need to load torch and the filters, beside its limit."""


def measured(name: str, device: str, *, tiny: bool) -> dict[str, Any]:
    """Run one part in this process and return its results."""
    work, limit_s = PARTS[name]
    chosen = torch.device(find_devices(device)[0])
    prepare(chosen)
    began = time.monotonic()
    before = ask_nvml(chosen)
    found = work(Run(chosen, tiny, began + (2.0 if tiny else limit_s)))
    return {
        "part": name,
        "about": {**about(), "device": describe(chosen), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
        "card": {"before": before, "after": ask_nvml(chosen)},
        "tiny": tiny,
        "seconds": round(time.monotonic() - began, 1),
        "results": found,
    }


def call(names: tuple[str, ...], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run parts in processes of their own; a part that fails or takes too long is noted, and the next one runs."""
    report: dict[str, Any] = {}
    for name in names:
        target = Path(tempfile.mkdtemp(prefix="impasto-gpu-")) / "part.json"
        command = [sys.executable, __file__, name, "--device", arguments.device, "--out", str(target)]
        command += ["--tiny"] if arguments.tiny else []
        print(f"== {name}", flush=True)
        try:
            done = subprocess.run(command, check=False, timeout=PARTS[name][1] + START_S)
            report[name] = json.loads(target.read_text()) if target.exists() else {"failed": f"status {done.returncode}"}
        except subprocess.TimeoutExpired:
            report[name] = {"failed": f"took more than {PARTS[name][1] + START_S} s"}
        write(arguments.out, report)
    return report


def write(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write a report, if there is a file for it."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> int:
    """Run a part or a call; return 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*CALLS, *PARTS])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to show that it works")
    parser.add_argument("--out", type=Path, help="file for the results, or a folder, which gets gpu-WHAT.json")
    arguments = parser.parse_args()
    if arguments.out is not None and (arguments.out.is_dir() or not arguments.out.suffix):
        arguments.out = arguments.out / f"gpu-{arguments.what}.json"
    if arguments.what not in CALLS:
        report = measured(arguments.what, arguments.device, tiny=arguments.tiny)
        write(arguments.out, report)
        print(json.dumps(report["results"], indent=1))
        return 0
    report = call(CALLS[arguments.what], arguments)
    failed = [name for name, part in report.items() if "failed" in part]
    print(f"{len(report) - len(failed)} parts done; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
