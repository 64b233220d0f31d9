"""Throughput, control latency under load, cost of durability, and memory against the scheduler's estimate.

Uses a real server in a separate process and the Python SDK. Rounds with different numbers of jobs in flight are interleaved.
Run by `make bench-service`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine import ROOT, STYLE, about
from PIL import Image

import impasto
from impasto.results import Started, Step

IN_FLIGHT = (1, 2, 4, 8, 16)
CONTENT = ROOT / "samples" / "swirls.jpg"


@contextlib.contextmanager
def server(*options: str) -> Iterator[str]:
    """Run a server and yield its address."""
    folder = tempfile.TemporaryDirectory(prefix="impasto-bench-")
    command = [sys.executable, "-c", "from impasto.cli import main; main()", "serve", "--listen", "127.0.0.1:0"]
    command += ["--data-dir", folder.name, "--log-level", "warning", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"serving on (\S+)", line):
                yield found[1]
                return
        raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait(30)
        folder.cleanup()


def throughput(size: int, steps: int, jobs: int, rounds: int) -> list[dict[str, Any]]:
    """Measure jobs per minute with 1, 2, 4, ... jobs in flight."""
    rates: dict[int, list[float]] = {count: [] for count in IN_FLIGHT}
    with server() as address, impasto.Client(address) as client:

        def paint(index: int) -> None:
            client.stylize(CONTENT, STYLE, size_px=size, steps=steps, seed=index)

        paint(0)
        for _ in range(rounds):
            for count in IN_FLIGHT:
                began = time.perf_counter()
                with ThreadPoolExecutor(count) as pool:
                    list(pool.map(paint, range(jobs)))
                rates[count].append(60 * jobs / (time.perf_counter() - began))
    alone = statistics.median(rates[1])
    rows = []
    for count, seen in rates.items():
        rate = statistics.median(seen)
        rows.append({"in_flight": count, "jobs_per_minute": round(rate, 1), "over_one_at_a_time": round(rate / alone, 3)})
        print(f"{count:3d} in flight: {rate:6.1f} jobs/min, {rate / alone:.3f} of one at a time")
    return rows


async def control(size: int, cancels: int) -> dict[str, Any]:
    """Cancel running jobs while others are queued, and call health continuously."""
    with server() as address:
        async with impasto.AsyncClient(address) as client:
            health: list[float] = []
            gaps: list[float] = []
            steps: list[float] = []
            done = asyncio.Event()

            async def ask() -> None:
                while not done.is_set():
                    began = time.perf_counter()
                    await client.health()
                    health.append(time.perf_counter() - began)
                    await asyncio.sleep(0.01)

            asking = asyncio.create_task(ask())
            jobs = [await client.submit(CONTENT, STYLE, size_px=size, steps=1000) for _ in range(cancels + 1)]
            for running, following in itertools.pairwise(jobs):
                seen = 0
                last = time.perf_counter()
                async for event in running.progress():
                    if isinstance(event, Step):
                        seen += 1
                        if seen > 1:
                            steps.append(time.perf_counter() - last)
                        last = time.perf_counter()
                        if seen == 4:
                            break
                watching = following.progress()
                await anext(watching)
                await asyncio.sleep(steps[-1] * 0.3)
                began = time.perf_counter()
                await running.cancel()
                async for event in watching:
                    if isinstance(event, Step):
                        raise SystemExit("received a step before the start event")
                    if isinstance(event, Started):
                        break
                gaps.append(time.perf_counter() - began)
            await jobs[-1].cancel()
            done.set()
            await asking
    step = statistics.median(steps)
    report = {
        "size_px": size,
        "step_s": round(step, 3),
        "cancel_to_next_start_s": [round(gap, 3) for gap in gaps],
        "worst_cancel_in_steps": round(max(gaps) / step, 2),
        "health_calls": len(health),
        "health_p50_ms": round(statistics.median(health) * 1e3, 2),
        "health_p99_ms": round(sorted(health)[int(len(health) * 0.99)] * 1e3, 2),
    }
    print(report)
    return report


def acknowledgement(jobs: int) -> dict[str, Any]:
    """Time SubmitJob with two megabytes of pictures on an idle server with durable storage."""
    generator = random.Random(0)  # noqa: S311 - incompressible pictures
    files = []
    for _ in range(2):
        noise = Image.frombytes("RGB", (640, 530), generator.randbytes(640 * 530 * 3))
        out = io.BytesIO()
        noise.save(out, "PNG")
        files.append(out.getvalue())
    seen = []
    with server() as address, impasto.Client(address) as client:
        for _ in range(jobs):
            began = time.perf_counter()
            job = client.submit(*files, size_px=256, steps=1000)
            seen.append(time.perf_counter() - began)
            job.delete()
            time.sleep(1.0)  # until the worker has released it
    report = {
        "bytes": sum(map(len, files)),
        "jobs": jobs,
        "p50_ms": round(statistics.median(seen) * 1e3, 1),
        "p99_ms": round(sorted(seen)[int(jobs * 0.99)] * 1e3, 1),
    }
    print("acknowledgement", report)
    return report


CHECKPOINT_PROBE = """
import json, statistics, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from engine import CPU, make_job
from impasto_engine.devices import prepare
from impasto_engine.weights import load_network
from impasto_server.workers.lanes import Lanes, TimeShare
from impasto_server.workers.worker import Worker
from impasto_server.workers.main import warm_up
from impasto_server.domain.job import JobSpec, OutputOptions, StylePicture
from impasto_server.domain.pictures import Raster
from impasto_server.workers.messages import Checkpointed, Start
size, steps = int(sys.argv[1]), int(sys.argv[2])
prepare(CPU)
network = load_network("builtin", CPU)
job = make_job(network, size, steps=steps, levels=1)
raster = lambda pixels: Raster(size, size, pixels.numpy().tobytes())
styles = (StylePicture(raster(job.styles[0].pixels), 1.0, ""),)
spec = JobSpec(size, size, raster(job.content), styles, job.parameters, OutputOptions())
warm_up(network)
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "checkpoint"
sizes = []
send = lambda report: sizes.append(report.size) if isinstance(report, Checkpointed) else None
runner = Worker(network, send, Lanes(write=ThreadPoolExecutor(1).submit), 5.0)
charged, charge = [], TimeShare.charge
TimeShare.charge = lambda share, cost_s: (charged.append(cost_s), charge(share, cost_s))[1]
runner.handle(Start("job", spec, str(path)))
running = runner._jobs["job"]
seconds, due = [], []
while not runner.idle:
    began = time.perf_counter()
    runner.step()
    seconds.append(time.perf_counter() - began)
    due.append(running.due)
usual = statistics.median(seconds)
cost = sum(each - usual for each in seconds if each > 1.15 * usual)
count = len(set(due)) - 1
interval = (max(due) - min(due)) / count if count else None
row = {"size_px": size, "steps": steps, "step_s": usual, "checkpoints": count, "cost_s": cost, "interval_s": interval}
row |= {"bytes": sizes, "charged_s": [round(cost_s, 3) for cost_s in charged]}
print(json.dumps(row))
"""


def checkpoint_cost(size: int, steps: int) -> dict[str, Any]:
    """Add up the extra time of the steps that overlap a checkpoint. The requested interval is five seconds."""
    command = [sys.executable, "-c", CHECKPOINT_PROBE, str(size), str(steps)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    if report["checkpoints"]:
        report["share"] = round(report["cost_s"] / report["checkpoints"] / report["interval_s"], 4)
    print("checkpoints", report)
    return report


MEMORY_PROBE = """
import json, sys
from engine import CPU, make_job
from impasto_engine.devices import PeakMemory, prepare
from impasto_engine.weights import load_network
from impasto_server.workers.worker import Worker
from impasto_server.workers.main import warm_up
from impasto_server.domain.job import JobSpec, OutputOptions, StylePicture
from impasto_server.domain.pictures import Raster
from impasto_server.workers.messages import Start
size, precision = int(sys.argv[1]), sys.argv[2]
prepare(CPU)
job = make_job(size, steps=5, precision=precision)
raster = lambda pixels: Raster(size, size, pixels.numpy().tobytes())
styles = (StylePicture(raster(job.styles[0].pixels), 1.0, ""),)
spec = JobSpec(size, size, raster(job.content), styles, job.parameters, OutputOptions())
network = load_network("builtin", CPU)
ready = warm_up(network)
arithmetic = ready.arithmetic if precision == "auto" else precision
demand = ready.memory.demand(spec, arithmetic)
runner = Worker(network, lambda report: None)
with PeakMemory(CPU) as peak:
    runner.handle(Start("job", spec))
    while not runner.idle:
        runner.step()
row = {"size_px": size, "arithmetic": arithmetic, "taken": peak.taken, "estimate": demand.held + demand.passing}
row["passing_bytes_per_pixel"] = ready.memory.lines[arithmetic].per_pixel
print(json.dumps(row))
"""


def memory(sizes: list[int]) -> list[dict[str, Any]]:
    """Compare the memory that a job takes in a fresh worker with the memory estimate made before it starts."""
    rows = []
    for precision in ("auto", "float32"):
        for size in sizes:
            command = [sys.executable, "-c", MEMORY_PROBE, str(size), precision]
            result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
            row = json.loads(result.stdout.splitlines()[-1])
            row["estimate_over_taken"] = round(row["estimate"] / row["taken"], 3)
            rows.append(row)
            mib = {name: row[name] / 2**20 for name in ("taken", "estimate")}
            print(
                f"{size:4d} px {row['arithmetic']:8s}: took {mib['taken']:6.0f} MiB, estimate {mib['estimate']:6.0f} MiB, "
                f"ratio {row['estimate_over_taken']:.3f} (a pass: {row['passing_bytes_per_pixel']:.0f} B/px)"
            )
    return rows


def first_step(size: int, rounds: int) -> dict[str, Any]:
    """Measure the time from the call to the first step of a job that waits for nobody, with a new style and a known one."""
    seconds: dict[str, list[float]] = {"new style": [], "same style": []}
    with server("--weights", "auto") as address, impasto.Client(address) as client, Image.open(STYLE) as opened:
        style = opened.convert("RGB").resize((size, size))
        for number in range(rounds + 1):
            content = Image.effect_noise((size, size), 40 + number)
            for name, wanted in (("new style", style.rotate(number)), ("same style", style.rotate(number))):
                began, took = time.perf_counter(), 0.0
                for event in client.submit(content, wanted, size_px=size, steps=3).progress():
                    if isinstance(event, Step) and not took:
                        took = time.perf_counter() - began
                if number:  # the first job pays for what is made once
                    seconds[name].append(took)
    row = {"size_px": size, **{name: round(statistics.median(found), 3) for name, found in seconds.items()}}
    print(f"first step: {row}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["throughput", "control", "memory", "durability", "first-step"])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    report = about()
    if arguments.only in (None, "memory"):
        report["memory"] = memory([128, 256, 384, 512, 768])
    if arguments.only in (None, "control"):
        report["control"] = asyncio.run(control(256, 8))
    if arguments.only in (None, "durability"):
        report["acknowledgement"] = acknowledgement(100)
        report["checkpoints"] = [checkpoint_cost(256, 150), checkpoint_cost(384, 75), checkpoint_cost(512, 100)]
    if arguments.only in (None, "first-step"):
        report["first_step"] = [first_step(256, 7), first_step(512, 5)]
    if arguments.only in (None, "throughput"):
        report["throughput"] = throughput(arguments.size, arguments.steps, arguments.jobs, arguments.rounds)
    target = ROOT / "benchmarks" / "results" / "service.json"
    before = json.loads(target.read_text()) if target.exists() and arguments.only else {}
    target.write_text(json.dumps({**before, **report}, indent=1) + "\n")
    print(target)


if __name__ == "__main__":
    main()
