"""Random walk over the API: three owners, a real server, fake workers that only count steps, and a disk that fails at commits.

A hypothesis state machine draws the operations. Some are awaited, others run concurrently. Invariants: no INTERNAL and no
UNKNOWN, no duplicate or missing events, each job in exactly one place, no unhandled exceptions. At the end of each walk, every
accepted job must end. `make soak-attack` runs 20,000 operations, the tests some hundreds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from impasto_server.app import RunningServer, serving
from impasto_server.auth.tokens import new_token
from impasto_server.config import ServerConfig
from impasto_server.store import sqlite as durable
from tests.soak.fuzz import pictures, resident_mb
from tests.unit.server.fakes import FakeWorker

FORBIDDEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED}
OWNERS = ("ann", "bob", "eve")
FILES = pictures()
ENDED = {pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED}
CALLS: Counter[str] = Counter()
"""Number of calls by method and status code, over all walks."""
_owner = st.sampled_from(OWNERS)
_which = st.integers(0, 7)
_concurrent = st.booleans()


class Disk:
    """A disk that randomly fails or is slow."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.moods = ("healthy",)

    def at(self, kinds: Any, where: str) -> None:
        """Replace the failpoints of a commit."""
        mood = self._rng.choice(self.moods)
        if mood == "slow":
            time.sleep(self._rng.uniform(0, 0.03))
        if mood == "broken" and where == "before_commit":
            raise sqlite3.OperationalError("disk I/O error")


class World:
    """A server on its own event loop, and its three callers.

    Args:
        seed: Seed of the disk's behaviour.
    """

    def __init__(self, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="impasto-walk-"))
        self.disk = Disk(random.Random(seed))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.jobs: dict[str, list[str]] = {owner: [] for owner in OWNERS}
        self.accepted: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.wrong: list[str] = []
        self._pending: list[asyncio.Task[None]] = []
        made = {owner: new_token(owner) for owner in OWNERS}
        (self.folder / "tokens").write_text("".join(f"{line}\n" for _, line in made.values()))
        self.metadata = {owner: (("authorization", f"Bearer {token}"),) for owner, (token, _) in made.items()}
        self._exit = AsyncExitStack()
        self.do(self._open())

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the loop, and wait for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    async def _open(self) -> None:
        self.workers = [FakeWorker(step_s=0.002), FakeWorker("cuda:0", step_s=0.001)]
        config = ServerConfig(
            listen="127.0.0.1:0",
            data_dir=str(self.folder / "data"),
            tokens=str(self.folder / "tokens"),
            heartbeat_s=0.05,
            grace_s=0.05,
            max_queued_jobs=12,
            max_client_jobs=8,
        )
        self.running: RunningServer = await self._exit.enter_async_context(serving(config, self.workers))
        await self.running.jobs.pool.ready.wait()
        channel = await self._exit.enter_async_context(grpc.aio.insecure_channel(self.running.address))
        self.stub = pb_grpc.StyleTransferServiceStub(channel)

    async def restart(self) -> None:
        """Stop the server as SIGTERM does, and start it again on the same data."""
        self.disk.moods = ("healthy",)
        await self.gather()
        await self._exit.aclose()
        self._exit = AsyncExitStack()
        await self._open()

    async def gather(self) -> None:
        """Wait for the concurrent operations."""
        pending, self._pending = self._pending, []
        await asyncio.wait_for(asyncio.gather(*pending), 60)

    async def run(self, name: str, work: Coroutine[Any, Any, None], concurrent: bool) -> None:
        """Run an operation and record how it ends. A concurrent one is not awaited."""

        async def noted() -> None:
            try:
                await work
                CALLS[f"{name} OK"] += 1
            except grpc.aio.AioRpcError as error:
                CALLS[f"{name} {error.code().name}"] += 1
                if error.code() in FORBIDDEN:
                    self.wrong.append(f"{name}: {error.code().name} {error.details()}")
            except asyncio.CancelledError:
                CALLS[f"{name} left"] += 1

        task = asyncio.create_task(noted())
        if concurrent:
            self._pending.append(task)
            if len(self._pending) > 20:
                await self.gather()
        else:
            await task

    def job(self, owner: str, which: int) -> str:
        """Return one of an owner's newest jobs, or the id of a job that never existed."""
        known = self.jobs[owner]
        return known[-1 - which % len(known)] if known else "0" * 16

    def spec(self, steps: int, kind: int) -> pb.JobSpec:
        """Return a job; some have short time limits, some are invalid."""
        spec = pb.JobSpec(content=pb.Image(data=FILES[kind % len(FILES)]), parameters=pb.Parameters(size_px=32, steps=steps))
        spec.styles.add(image=pb.Image(data=FILES[(kind + 1) % len(FILES)]))
        spec.output.preview_every_steps = kind % 3
        spec.priority = kind % 5 - 2
        if kind % 4 == 1:
            spec.time_limit.FromMilliseconds(20 * (kind + 1))
            spec.on_deadline = pb.ON_DEADLINE_RETURN_BEST if kind % 8 == 1 else pb.ON_DEADLINE_FAIL
        if kind == 7:
            spec.parameters.steps = 0
        return spec

    async def submit(self, owner: str, steps: int, kind: int, request_id: str) -> None:
        """SubmitJob."""
        request = pb.SubmitJobRequest(spec=self.spec(steps, kind), request_id=request_id)
        job_id = (await self.stub.SubmitJob(request, metadata=self.metadata[owner])).job.job_id
        if job_id not in self.accepted:
            self.jobs[owner].append(job_id)
        self.accepted[job_id] = owner

    async def stylize(self, owner: str, steps: int, kind: int, timeout_s: float) -> None:
        """Stylize; the caller may leave early."""
        request = pb.StylizeRequest(spec=self.spec(steps, kind), request_id=str(uuid.uuid4()))
        await self.stub.Stylize(request, metadata=self.metadata[owner], timeout=timeout_s)

    async def watch(self, owner: str, job_id: str, after: int | None, most: int) -> None:
        """Progress: each sequence number once and in order, to the end or until the reader leaves."""
        request = pb.ProgressRequest(job_id=job_id, include_previews=True)
        if after is not None:
            request.resume_after_sequence = after
        call = self.stub.Progress(request, metadata=self.metadata[owner], timeout=120)
        newest, ended = after, False
        messages = 0
        async for message in call:
            messages += 1
            kind = message.WhichOneof("event")
            if ended:
                self.wrong.append(f"job {job_id}: {kind} after its end")
            if kind in ("snapshot", "heartbeat"):
                newest = message.sequence if newest is None else newest
                continue
            again = kind == "result" and message.sequence == after  # the end is repeated for whoever asks after it
            if newest is not None and message.sequence != newest + 1 and not again:
                self.wrong.append(f"job {job_id}: event {message.sequence} after {newest}")
            newest, ended = message.sequence, kind == "result"
            if messages >= most:
                call.cancel()
                return
        if not ended and job_id not in self.deleted:
            self.wrong.append(f"job {job_id}: the stream ended before the job")

    async def control(self, owner: str, name: str, job_id: str) -> None:
        """A call whose only argument is a job id."""
        if name == "Delete":
            self.deleted.add(job_id)
        request = {
            "Pause": pb.PauseJobRequest,
            "Resume": pb.ResumeJobRequest,
            "Cancel": pb.CancelJobRequest,
            "Delete": pb.DeleteJobRequest,
            "Get": pb.GetJobRequest,
            "GetResult": pb.GetResultRequest,
        }[name]
        call = getattr(self.stub, "GetResult" if name == "GetResult" else f"{name}Job")
        await call(request(job_id=job_id), metadata=self.metadata[owner])

    async def upload(self, owner: str, size: int) -> None:
        """UploadImage, then DownloadImage of the same file."""
        data = os.urandom(size)
        digest = hashlib.sha256(data).hexdigest()

        async def pieces() -> Any:
            yield pb.UploadImageRequest(start=pb.UploadStart(sha256=digest, size_bytes=size))
            yield pb.UploadImageRequest(chunk=data)

        await self.stub.UploadImage(pieces(), metadata=self.metadata[owner])
        call = self.stub.DownloadImage(pb.DownloadImageRequest(image_id=digest), metadata=self.metadata[owner])
        if b"".join([message.chunk async for message in call]) != data:
            self.wrong.append("a downloaded file differs from the upload")

    async def look(self, owner: str) -> None:
        """InspectFeatures, ListJobs and GetServerInfo."""
        metadata = self.metadata[owner]
        image = pb.Image(data=FILES[0])
        listed = await self.stub.ListJobs(pb.ListJobsRequest(page_size=50), metadata=metadata)
        for job in listed.jobs:
            if self.accepted.get(job.job_id, owner) != owner:
                self.wrong.append(f"{owner} sees {self.accepted[job.job_id]}'s job")
        await self.stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=metadata)
        await self.stub.InspectFeatures(pb.InspectFeaturesRequest(image=image, layer="conv1_1"), metadata=metadata)

    async def kill(self, number: int) -> None:
        """Kill a worker."""
        self.workers[number % len(self.workers)].die()

    async def check(self) -> None:
        """Check the invariants."""
        self.wrong += self.running.jobs.supervisor.audit()
        for metric in self.running.metrics.faults.collect():
            self.wrong += [f"a fault was counted: {sample.labels}" for sample in metric.samples if sample.value]

    async def end(self) -> None:
        """Wait for every job to end, then stop."""
        self.disk.moods = ("healthy",)
        try:
            await self.gather()
            for job_id, owner in self.accepted.items():
                await self._ends(owner, job_id)
            await self._idle()
            await self.check()
        finally:
            await self._exit.aclose()

    async def _ends(self, owner: str, job_id: str) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                job = (await self.stub.GetJob(pb.GetJobRequest(job_id=job_id), metadata=self.metadata[owner])).job
                if job.state in ENDED:
                    return
                if job.state == pb.JOB_STATE_PAUSED:
                    await self.stub.ResumeJob(pb.ResumeJobRequest(job_id=job_id), metadata=self.metadata[owner])
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND and job_id in self.deleted:
                    return
            await asyncio.sleep(0.02)
        self.wrong.append(f"job {job_id} did not end")

    async def _idle(self) -> None:
        """Wait for the jobs of Stylize: one whose caller left ends at its next step, which is after the caller's deadline."""
        dispatcher = self.running.jobs.dispatcher
        until = time.monotonic() + 30
        while dispatcher.queued + dispatcher.running and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if dispatcher.queued + dispatcher.running:
            self.wrong.append(f"{dispatcher.queued} jobs are queued and {dispatcher.running} are running without an owner")

    def close(self) -> None:
        """Stop the loop and remove the data."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder)


class Walk(RuleBasedStateMachine):
    """One walk."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(seed=next(_SEEDS))
        _current.append(self.world)

    def act(self, name: str, work: Coroutine[Any, Any, None], concurrent: bool = False) -> None:
        """Run an operation."""
        self.world.do(self.world.run(name, work, concurrent))

    @rule(owner=_owner, steps=st.integers(1, 60), kind=_which, concurrent=_concurrent, again=_concurrent)
    def submit(self, owner: str, steps: int, kind: int, concurrent: bool, again: bool) -> None:
        """A new job, possibly with the same request submitted twice concurrently."""
        request_id = str(uuid.uuid4())
        if again:
            self.act("SubmitJob", self.world.submit(owner, steps, kind, request_id), True)
        self.act("SubmitJob", self.world.submit(owner, steps, kind, request_id), concurrent)

    @rule(owner=_owner, steps=st.integers(1, 60), kind=_which, timeout_s=st.sampled_from((0.02, 0.1, 5.0)))
    def stylize(self, owner: str, steps: int, kind: int, timeout_s: float) -> None:
        """A job whose caller waits."""
        self.act("Stylize", self.world.stylize(owner, steps, kind, timeout_s), True)

    @rule(
        owner=_owner,
        name=st.sampled_from(("Pause", "Resume", "Cancel", "Delete", "Get", "GetResult", "Pause", "Resume")),
        which=_which,
        concurrent=_concurrent,
    )
    def control(self, owner: str, name: str, which: int, concurrent: bool) -> None:
        """A call for one of the owner's jobs."""
        self.act(name, self.world.control(owner, name, self.world.job(owner, which)), concurrent)

    @rule(owner=_owner, other=_owner, which=_which)
    def trespass(self, owner: str, other: str, which: int) -> None:
        """A call for another owner's job."""
        self.act("GetResult", self.world.control(owner, "GetResult", self.world.job(other, which)))

    @rule(owner=_owner, which=_which, after=st.none() | st.integers(0, 5), most=st.sampled_from((1, 5, 10_000)))
    def watch(self, owner: str, which: int, after: int | None, most: int) -> None:
        """A watcher."""
        self.act("Progress", self.world.watch(owner, self.world.job(owner, which), after, most), True)

    @rule(owner=_owner, size=st.sampled_from((1, 1000, 300_000)))
    def upload(self, owner: str, size: int) -> None:
        """Upload a file and download it again."""
        self.act("UploadImage", self.world.upload(owner, size), True)

    @rule(owner=_owner, concurrent=_concurrent)
    def look(self, owner: str, concurrent: bool) -> None:
        """Read-only calls."""
        self.act("InspectFeatures", self.world.look(owner), concurrent)

    @rule(number=_which)
    def kill(self, number: int) -> None:
        """A worker dies."""
        if number < 2:
            self.world.do(self.world.kill(number))

    @rule(moods=st.sampled_from((("healthy",), ("slow",), ("healthy", "slow", "broken"), ("broken",))))
    def disk(self, moods: tuple[str, ...]) -> None:
        """The disk changes its behaviour."""
        self.world.disk.moods = moods

    @rule(sure=st.integers(0, 9))
    def restart(self, sure: int) -> None:
        """The server is restarted occasionally."""
        if sure == 0:
            self.world.do(self.world.restart())

    @invariant()
    def holds(self) -> None:
        """The invariants hold after every operation."""
        self.world.do(self.world.check())
        assert not self.world.wrong, self.world.wrong

    def teardown(self) -> None:
        """Every job ends."""
        _current.clear()
        try:
            self.world.do(self.world.end())
            assert not self.world.wrong, self.world.wrong
        finally:
            self.world.close()


_SEEDS: Iterator[int] = iter(range(sys.maxsize))
_current: list[World] = []


@contextmanager
def _unreliable_disk() -> Iterator[None]:
    """Let the disk of the current walk decide how commits go."""
    before = durable._pass, durable.RETRY_S
    durable._pass = lambda kinds, where: _current[-1].disk.at(kinds, where) if _current else None
    durable.RETRY_S = 0.02
    try:
        yield
    finally:
        durable._pass, durable.RETRY_S = before


def walk(walks: int, operations: int, seed: int | None = None) -> None:
    """Run random walks.

    Args:
        walks: Number of walks, each on its own server.
        operations: Number of operations per walk.
        seed: If set, hypothesis draws the same operations on every run; None for new ones each time.

    Raises:
        AssertionError: If an invariant is violated.
    """
    how = settings(
        max_examples=walks,
        stateful_step_count=operations,
        deadline=None,
        derandomize=seed is not None,
        database=None,
        phases=[Phase.generate],  # concurrent operations are not reproducible, so shrinking is pointless
        suppress_health_check=list(HealthCheck),
    )
    with _unreliable_disk():
        run_state_machine_as_test(Walk, settings=how)


def main() -> int:
    """Run the long form in rounds, and measure the memory after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=20_000)
    arguments = parser.parse_args()
    began = time.monotonic()
    rounds, length = 10, 200
    memory = []
    for _ in range(rounds):
        walk(arguments.operations // rounds // length, length)
        gc.collect()
        memory.append(resident_mb())
        print(f"{sum(CALLS.values())} calls in {time.monotonic() - began:.0f} s, {memory[-1]:.0f} MB", flush=True)
    print("\n".join(f"{count:6} {name}" for name, count in sorted(CALLS.items())))
    grown = memory[-1] - memory[1]
    print(f"memory grew by {grown:.0f} MB after the second round")
    return grown > 60


if __name__ == "__main__":
    sys.exit(main())
