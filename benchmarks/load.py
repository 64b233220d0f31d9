"""Maximum rate of small calls that `impasto load` can generate, against a server that only answers health checks.

Run by `make bench-load`: an open loop at increasing rates, each for some seconds. Client and server are separate processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
from engine import about
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import impasto
from impasto.load import Entry, Plan, ServiceTarget, Stage, Workload, offsets, run, summarize

ROOT = Path(__file__).parents[1]


async def answer() -> None:
    """Serve only health checks, until killed."""
    server = grpc.aio.server(options=[("grpc.server.max_pending_requests", 1_000_000)])
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def drive(address: str, rate: float, seconds: float) -> dict[str, Any]:
    """Send calls at a fixed rate and return the measurements."""
    workload = Workload((Entry(name="ping", call="health"),))
    async with impasto.AsyncClient(address) as client:
        await client.health()
        loop = asyncio.get_running_loop()
        began, before = loop.time(), resource.getrusage(resource.RUSAGE_SELF)
        due = offsets([Stage(rate, rate, float("inf"))], "poisson", 1)
        records = await run(Plan(due, duration_s=seconds, drain_s=30), workload, ServiceTarget(client))
        took, after = loop.time() - began, resource.getrusage(resource.RUSAGE_SELF)
    report = summarize(records, took, {})
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "rate": rate,
        "done_per_second": report.outcomes.get("ok", 0) / took,
        "outcomes": report.outcomes,
        "sent_late_ms": {"median": report.lateness["median_s"] * 1e3, "longest": report.lateness["longest_s"] * 1e3},
        "p50_ms": (report.value("p50(done)") or 0) * 1e3,
        "p99_ms": (report.value("p99(done)") or 0) * 1e3,
        "tester_us_of_cpu_per_request": cpu_s / max(1, len(records)) * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[500, 1000, 1500, 2000, 2500])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(answer())
        return
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        address = f"127.0.0.1:{server.stdout.readline().strip()}"
        rows = [asyncio.run(drive(address, rate, arguments.seconds)) for rate in arguments.rates]
    finally:
        server.kill()
    for row in rows:
        print(row)
    (ROOT / "benchmarks/results/load.json").write_text(json.dumps({**about(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
