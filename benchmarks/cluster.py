"""Measures workers on other machines, as processes of this one with a fake engine of known step time.

    python benchmarks/cluster.py throughput | resume | server | links [--out FILE]

``throughput``: steps per second with 1, 2 and 4 workers, relative to one. ``resume``: seconds from a kill or freeze of a host
to the job's next start. ``server``: the server's processor time per step report. ``links``: a network namespace per host; the
link is cut for 1, 5 and 30 s, and gets delay and loss (needs root, ip and tc).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration.cluster.conftest import Cluster, _cluster, until

import impasto

STEP_S, STEPS = 0.02, 300


def picture(seed: int) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.effect_noise((48, 48), 20 + seed).convert("RGB").save(out, "PNG")
    return out.getvalue()


async def submit(client: impasto.AsyncClient, steps: int = STEPS, seed: int = 0) -> impasto.AsyncJob:
    return await client.submit(picture(seed), picture(99), size_px=48, steps=steps, levels=1)


async def throughput(folder: Path) -> dict[str, float]:
    """Return steps per second by number of workers, over jobs that keep them busy, and relative to one worker."""
    rates = {}
    for workers in (1, 2, 4):
        (folder / str(workers)).mkdir()
        async with _cluster(folder / str(workers), checkpoint_interval_s=5.0) as running:
            for number in range(workers):
                running.add(f"w{number}", FAKE_STEP_S=str(STEP_S))
            await running.until_ready(*(f"w{number}" for number in range(workers)), within_s=60)
            async with impasto.AsyncClient(running.running.address) as client:
                jobs = [await submit(client, seed=seed) for seed in range(3 * workers)]
                began = time.monotonic()
                for job in jobs:
                    await job.result(300)
                rates[workers] = 3 * workers * STEPS / (time.monotonic() - began)
    return {f"{n} workers": rate for n, rate in rates.items()} | {
        f"{n} workers, of linear": rates[n] / n / rates[1] for n in (2, 4)
    }


async def started_again(job: impasto.AsyncJob) -> float:
    starts = 0
    async for event in job.progress(resume_after=0):
        starts += isinstance(event, impasto.Started)
        if starts == 2:
            return time.monotonic()
    raise AssertionError("it did not start again")


async def resume(folder: Path, rounds: int = 7) -> dict[str, float]:
    """Return the median and longest seconds from the end of a host to the next start of its job."""
    found: dict[str, list[float]] = {"kill": [], "freeze": []}
    async with _cluster(folder, checkpoint_interval_s=1.0) as running, impasto.AsyncClient(running.running.address) as client:
        for what, number in (("kill", signal.SIGKILL), ("freeze", signal.SIGSTOP)):
            for _ in range(rounds):
                hosts = {name: running.add(name, FAKE_STEP_S=str(STEP_S)) for name in ("a", "b")}
                await running.until_ready("a", "b", within_s=60)
                job = await submit(client, steps=2000)
                await until(lambda job=job: running.running.jobs.store.get(job.job_id).step > 50)
                hosts[running.running.jobs.store.get(job.job_id).device].signal(number)
                began = time.monotonic()
                found[what].append(await started_again(job) - began)
                await job.cancel()
                for host in hosts.values():
                    host.signal(signal.SIGCONT)
                    host.kill()
                await until(lambda: not running.pool.workers)
    return {
        f"{what}, {name}": fn(times)
        for what, times in found.items()
        for name, fn in (("median s", statistics.median), ("longest s", max))
    }


async def server(folder: Path) -> dict[str, float]:
    """Return the microseconds of processor that the server takes for a step report of a remote worker, durable."""
    async with _cluster(folder, checkpoint_interval_s=60.0, max_running_jobs=16) as running:
        for number in range(2):
            running.add(f"w{number}", FAKE_STEP_S="0.005")
        await running.until_ready("w0", "w1", within_s=60)
        async with impasto.AsyncClient(running.running.address) as client:
            jobs = [await submit(client, steps=2000, seed=seed) for seed in range(16)]
            await asyncio.sleep(2)
            before, steps = resource.getrusage(resource.RUSAGE_SELF), running_steps(running, jobs)
            began = time.monotonic()
            await asyncio.sleep(8)
            after, now = resource.getrusage(resource.RUSAGE_SELF), running_steps(running, jobs)
            took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return {"us per step": 1e6 * took / (now - steps), "steps per s": (now - steps) / (time.monotonic() - began)}


def running_steps(running: Cluster, jobs: list[impasto.AsyncJob]) -> int:
    return sum(running.running.jobs.store.get(job.job_id).step for job in jobs)


def net(*arguments: str) -> None:
    subprocess.run([*arguments], check=True, capture_output=True)


class Namespace:
    """A host of its own: a network namespace, joined to this one by a pair of interfaces."""

    def __init__(self, number: int) -> None:
        self.name, self.outer, self.inner = f"impasto{number}", f"imp{number}o", f"imp{number}i"
        self.server, self.host = f"10.77.{number}.1", f"10.77.{number}.2"
        self.close()
        net("ip", "netns", "add", self.name)
        net("ip", "link", "add", self.outer, "type", "veth", "peer", "name", self.inner, "netns", self.name)
        net("ip", "addr", "add", f"{self.server}/24", "dev", self.outer)
        net("ip", "link", "set", self.outer, "up")
        for command in (
            ("addr", "add", f"{self.host}/24", "dev", self.inner),
            ("link", "set", self.inner, "up"),
            ("link", "set", "lo", "up"),
        ):
            net("ip", "-n", self.name, *command)

    def up(self, state: str) -> None:
        net("ip", "link", "set", self.outer, state)

    def shape(self, *how: str) -> bool:
        """Give the link delay or loss; return whether this kernel can."""
        command = ["tc", "qdisc", "replace", "dev", self.outer, "root", "netem", *how]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


async def links(folder: Path) -> dict[str, object]:
    """Return what happens to a job when its host's link is cut, slow or lossy; another host waits."""
    found: dict[str, object] = {}
    for number, (label, cut_s, how) in enumerate(
        (
            ("cut for 1 s", 1.0, ()),
            ("cut for 5 s", 5.0, ()),
            ("cut for 30 s", 30.0, ()),
            ("delay 50 ms each way", 0.0, ("delay", "50ms")),
            ("loss 5 %", 0.0, ("loss", "5%")),
            ("delay 50 ms, loss 2 %", 0.0, ("delay", "50ms", "loss", "2%")),
        ),
        start=1,
    ):
        place = Namespace(number)
        (folder / str(number)).mkdir()
        try:
            async with _cluster(
                folder / str(number), worker_listen="0.0.0.0:0", worker_tokens=str(tokens(folder)), checkpoint_interval_s=1.0
            ) as running:
                port = running.running.worker_address.rpartition(":")[2]
                os.environ["IMPASTO_TOKEN"] = "token"
                host = add_in(running, place, f"{place.server}:{port}")
                await running.until_ready("far", within_s=60)
                async with impasto.AsyncClient(running.running.address) as client:
                    job = await submit(client, steps=1000)
                    await until(lambda job=job: running.running.jobs.store.get(job.job_id).step > 50)
                    running.add("near", server=f"127.0.0.1:{port}", FAKE_STEP_S=str(STEP_S))
                    await running.until_ready("near", within_s=60)
                    if how and not place.shape(*how):
                        found[label] = "tc netem is not available here"
                        continue
                    if cut_s:
                        place.up("down")
                        await asyncio.sleep(cut_s)
                        place.up("up")
                    began = time.monotonic()
                    result = await job.result(300)
                    events = [event async for event in job.progress(resume_after=0)]
                    starts = [event for event in events if isinstance(event, impasto.Started)]
                    back = await until(lambda: running.pool.has("far"), 60)
                    found[label] = {
                        "state": result.job.state,
                        "starts": [f"{event.device} at {event.step}" for event in starts],
                        "steps seen": sum(isinstance(event, impasto.Step) for event in events),
                        "seconds to the end": round(time.monotonic() - began - back, 1),
                        "host joined again after s": round(back, 1),
                    }
                    host.kill()
        finally:
            place.close()
    return found


def tokens(folder: Path) -> Path:
    import hashlib

    path = folder / "tokens"
    path.write_text(f"worker sha256:{hashlib.sha256(b'token').hexdigest()}\n")
    return path


def add_in(running: Cluster, place: Namespace, server: str) -> object:
    """Add a host in a namespace."""
    command = ["ip", "netns", "exec", place.name, sys.executable, "-m", "tests.integration.cluster.fake_process"]
    return running._add("far", [*command, "--join", server, "--name", "far", "--host", "far-host"], FAKE_STEP_S=str(STEP_S))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["throughput", "resume", "server", "links"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(globals()[arguments.what](Path(folder)))
    text = json.dumps({arguments.what: found}, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
