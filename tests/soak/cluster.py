"""Random faults of hosts while jobs are painted on them. Each job must be done once, with the picture of an undisturbed run.

Three hosts; a fault every second or so: kill -9, freeze and thaw, SIGTERM, kill of the server. Invariants at the end: every job
has succeeded; its picture is the undisturbed one, bit for bit; its events have no gap and report each step in order; no process
of any host is left.
    python -m tests.soak.cluster [--faults 20] [--jobs 30] [--seed 0] [--real]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import signal
import socket
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image

import impasto
from tests.integration.cluster.conftest import Cluster, Host, _cluster, until

HOSTS = ("a", "b", "c")


def noise(seed: int) -> bytes:
    values = random.Random(seed).randbytes(3 * 48 * 48)
    out = io.BytesIO()
    Image.frombytes("RGB", (48, 48), values).save(out, "PNG")
    return out.getvalue()


class Soak:
    """One run.

    Args:
        arguments: The command line's.
        folder: For the data and the logs.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.real, self.faults, self.jobs = arguments.real, arguments.faults, arguments.jobs
        self.draw, self.folder = random.Random(arguments.seed), folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.steps = 60 if self.real else 300
        self.hosts: dict[str, Host] = {}
        self.seen: set[psutil.Process] = set()

    def options(self) -> dict[str, object]:
        size = 64 if self.real else 48
        return {"size_px": size, "steps": self.steps, "levels": 1, **({"optimizer": "adam"} if self.real else {})}

    def add(self, cluster: Cluster, name: str) -> None:
        self.hosts[name] = cluster.add_real(name) if self.real else cluster.add(name, FAKE_STEP_S="0.01")

    async def run(self) -> None:
        submitted: list[str] = []
        expected: dict[str, bytes] = {}
        restarts = max(1, self.faults // 7)
        for round_ in range(restarts + 1):
            async with _cluster(self.folder, [], worker_listen=self.address, max_ended_jobs=10_000) as cluster:
                cluster.hosts += [host for host in self.hosts.values() if host.process.poll() is None]
                if not round_:
                    for name in HOSTS:
                        self.add(cluster, name)
                    await cluster.until_ready(*HOSTS, within_s=180)
                await until(lambda pool=cluster.pool: pool.any_ready, 180)
                async with impasto.AsyncClient(cluster.running.address) as client:
                    if not round_:
                        for number in range(3):
                            result = await client.stylize(noise(number), noise(9), **self.options())
                            expected[str(number)] = result.data
                    for number in range(self.jobs // (restarts + 1) + 1):
                        job = await client.submit(
                            noise(number % 3), noise(9), request_id=f"{round_}-{number}", **self.options()
                        )
                        submitted.append(job.job_id)
                    for _ in range(self.faults // (restarts + 1) + 1):
                        await asyncio.sleep(self.draw.uniform(0.3, 2.0))
                        await self.fault(cluster)
                    if round_ == restarts:
                        await self.check(client, submitted, expected)
                        return
                cluster.hosts.clear()  # they outlive the server
            print(f"the server is restarted; {len(submitted)} jobs so far", flush=True)

    async def fault(self, cluster: Cluster) -> None:
        name = self.draw.choice(HOSTS)
        host = self.hosts[name]
        what = self.draw.choice(["kill", "freeze", "leave"])
        self.seen.update(psutil.Process(host.process.pid).children(recursive=True) if host.process.poll() is None else ())
        print(f"{what} {name}", flush=True)
        if what == "freeze":
            host.signal(signal.SIGSTOP)
            await asyncio.sleep(self.draw.uniform(0.5, 5))
            host.signal(signal.SIGCONT)
            return
        host.signal(signal.SIGKILL if what == "kill" else signal.SIGTERM)
        await asyncio.to_thread(host.process.wait, 60)
        self.add(cluster, name)

    async def check(self, client: impasto.AsyncClient, job_ids: list[str], expected: dict[str, bytes]) -> None:
        began = time.monotonic()
        starts = 0
        for job_id in job_ids:
            job = client.job(job_id)
            result = await job.result(600)
            assert result.data in expected.values(), f"job {job_id} has another picture"
            sequence = 0
            steps: list[int] = []
            async for event in job.progress(resume_after=0):
                starts += isinstance(event, impasto.Started)
                if isinstance(event, impasto.Step):
                    assert event.sequence > sequence, f"job {job_id}: {event.sequence} after {sequence}"
                    sequence = event.sequence
                    steps.append(event.step)
            assert set(steps) == set(range(1, self.steps + 1)), f"job {job_id} has gaps"
        print(
            f"{len(job_ids)} jobs done {time.monotonic() - began:.1f} s after the last fault; {starts - len(job_ids)} resumed"
        )
        for host in self.hosts.values():
            self.seen.update(psutil.Process(host.process.pid).children(recursive=True))
            host.kill()
        await until(lambda: not any(process.is_running() for process in self.seen), 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="with the real engine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(Soak(arguments, Path(folder)).run())
    print("clean")


if __name__ == "__main__":
    main()
