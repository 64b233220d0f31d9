"""Health latency and memory per watcher, with ten thousand idle watchers and two hundred queued jobs on a real server.

Run by `make bench-streams`. The watchers run in separate processes, so that only the server is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
from engine import about
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

import impasto
from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc

ROOT = Path(__file__).parents[1]
STREAMS_OF_A_CHANNEL = 500
HEALTH_CALLS = 1000
CLI = [sys.executable, "-c", "from impasto.cli import main; main()"]


def start_server(*more: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server; return it and its address once it accepts jobs."""
    command = [*CLI, "serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--weights", "builtin", "--data-dir", ":memory:"]
    server = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
    for line in server.stderr or ():
        if found := re.search(r"serving on (\S+)", line):
            return server, found.group(1)
    raise SystemExit("the server did not start")


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


async def watch(address: str, job_ids: list[str], count: int) -> None:
    """Open the given number of streams, report when all have received their snapshot, and read until killed."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(-(-count // STREAMS_OF_A_CHANNEL))]
    ready = 0
    done = asyncio.Event()

    async def one(number: int) -> None:
        nonlocal ready
        stub: Any = pb_grpc.StyleTransferServiceStub(channels[number // STREAMS_OF_A_CHANNEL])
        first = True
        async for _ in stub.Progress(pb.ProgressRequest(job_id=job_ids[number % len(job_ids)])):
            if first:
                first, ready = False, ready + 1
                if ready == count:
                    done.set()

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    await done.wait()
    print("watching", flush=True)
    await asyncio.gather(*tasks)


async def health(address: str) -> list[float]:
    """Return the durations of many consecutive health calls in milliseconds."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        took = []
        for _ in range(HEALTH_CALLS):
            began = time.perf_counter()
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            took.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(0.01)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--watch", nargs=2, metavar=("ADDRESS", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("ids", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.watch:
        asyncio.run(watch(arguments.watch[0], arguments.ids, int(arguments.watch[1])))
        return
    server, address = start_server("--max-running-jobs", "1", "--max-queued-jobs", "1000")
    out = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(out, "PNG")
    watchers: list[subprocess.Popen[str]] = []
    try:
        with impasto.Client(address) as client:
            jobs = [client.submit(out.getvalue(), out.getvalue(), size_px=256, steps=10_000) for _ in range(arguments.jobs + 1)]
            ids = [job.job_id for job in jobs[1:]]
            alone = asyncio.run(health(address))
            before = resident_mb(server.pid)
            each = arguments.streams // 2
            for _ in range(2):
                command = [sys.executable, __file__, "--watch", address, str(each), "--", *ids]
                watchers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            for watcher in watchers:
                assert watcher.stdout
                assert watcher.stdout.readline() == "watching\n"
            opened = resident_mb(server.pid)
            time.sleep(30)
            crowded = asyncio.run(health(address))
            after = resident_mb(server.pid)
            info = client.server_info()
    finally:
        for watcher in watchers:
            watcher.kill()
        os.kill(server.pid, signal.SIGINT)
        os.kill(server.pid, signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
    cuts = {name: statistics.quantiles(values, n=100) for name, values in (("alone", alone), ("crowded", crowded))}
    report = {
        **about(),
        "streams": arguments.streams,
        "jobs_waiting": info.queued,
        "jobs_running": info.running,
        "health_ms": {name: {"p50": q[49], "p99": q[98]} for name, q in cuts.items()},
        "server_mb": {"before": before, "opened": opened, "after": after},
        "kb_per_stream": (after - before) * 1024 / arguments.streams,
    }
    print(json.dumps(report, indent=1))
    (ROOT / "benchmarks/results/streams.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
