"""Clients that go away, come in crowds, read slowly or freeze: afterwards everything counts zero again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from tests.unit.server.fakes import FakeWorker


async def settles(check: Callable[[], bool], within_s: float = 60.0) -> bool:
    """Wait until something is so."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if check():
            return True
        await asyncio.sleep(0.05)
    return False


def open_calls(metrics: Any) -> float:
    """Return how many calls began and did not end."""
    counted = {"grpc_server_started_total": 0.0, "grpc_server_handled_total": 0.0}
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name in counted:
                counted[sample.name] += sample.value
    return counted["grpc_server_started_total"] - counted["grpc_server_handled_total"]


async def quiet(running: Any) -> None:
    """See that nothing is left of the clients: calls, watchers, waiting jobs, tasks of the dispatcher's."""
    metrics, jobs = running.running.metrics, running.running.jobs
    assert await settles(lambda: open_calls(metrics) == 0), open_calls(metrics)
    assert await settles(lambda: metrics.registry.get_sample_value("impasto_progress_streams") == 0)
    assert await settles(lambda: jobs.dispatcher.watchers == 0)
    assert await settles(lambda: not any(runtime.waiters for runtime in jobs.table.runtimes.values()))
    assert await settles(lambda: not jobs.table.tasks)


async def test_a_storm_of_disconnects_leaves_nothing(service: Any, spec: Any) -> None:
    """Two hundred watchers and fifty waiting callers whose connections are cut; the callers' jobs are cancelled."""
    async with service(FakeWorker(hang=True)) as running:
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job
        channels = [
            grpc.aio.insecure_channel(running.running.address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(10)
        ]
        streams, painting = [], []
        for number in range(250):
            stub: Any = pb_grpc.StyleTransferServiceStub(channels[number % 10])
            if number < 200:
                stream = stub.Progress(pb.ProgressRequest(job_id=job.job_id))
                assert (await stream.read()).snapshot.job_id
                streams.append(stream)
            else:
                painting.append(asyncio.ensure_future(_stylize(stub, spec())))
        assert await settles(lambda: running.running.jobs.dispatcher.queued + running.running.jobs.dispatcher.running == 51)
        for channel in channels:
            await channel.close()
        await asyncio.gather(*painting, return_exceptions=True)
        await quiet(running)
        assert await settles(lambda: running.running.jobs.dispatcher.queued + running.running.jobs.dispatcher.running == 1)


async def _stylize(stub: Any, spec: pb.JobSpec) -> Any:
    return await stub.Stylize(pb.StylizeRequest(spec=spec))


async def test_a_storm_of_deadlines_leaves_nothing(service: Any, spec: Any) -> None:
    """A thousand calls with 50 ms each, which no job can keep: all end with a status, and their jobs are cancelled."""
    async with service(FakeWorker(hang=True), max_queued_jobs=2000) as running:
        made = spec()

        async def one() -> grpc.StatusCode:
            try:
                await running.stub.Stylize(pb.StylizeRequest(spec=made), timeout=0.05)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        codes: set[grpc.StatusCode] = set()
        for _ in range(50):  # in waves: a thousand at once would not even leave the client in time
            codes |= set(await asyncio.gather(*(one() for _ in range(20))))
        assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
        labels = {"grpc_type": "unary", "grpc_service": "impasto.v1.StyleTransferService", "grpc_method": "Stylize"}
        assert running.running.metrics.registry.get_sample_value("grpc_server_started_total", labels) > 500
        await quiet(running)
        dispatcher = running.running.jobs.dispatcher
        assert await settles(lambda: dispatcher.queued + dispatcher.running == 0)
        assert (await running.stub.GetServerInfo(pb.GetServerInfoRequest())).accepting


async def test_a_slow_reader_holds_up_nobody_and_loses_old_previews_only(service: Any, spec: Any) -> None:
    """It reads a message now and then while the job runs to its end; every step is there, in order."""
    async with service(FakeWorker(step_s=0.0005)) as running:
        made = spec(400)
        made.output.preview_every_steps = 1
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made))).job
        request = pb.ProgressRequest(job_id=job.job_id, resume_after_sequence=0, include_previews=True)
        slow = aiter(running.stub.Progress(request))
        await anext(slow)
        fast = running.stub.Progress(pb.ProgressRequest(job_id=job.job_id))
        ended = [event async for event in fast][-1]
        assert ended.result.job.step == 400
        steps = [event.step.step async for event in slow if event.HasField("step")]
        assert steps == list(range(1, 401))
        await quiet(running)


FROZEN = """
import sys, grpc
from impasto.v1 import style_transfer_pb2 as pb, style_transfer_pb2_grpc as pb_grpc
channel = grpc.insecure_channel(sys.argv[1])
stub = pb_grpc.StyleTransferServiceStub(channel)
streams = [stub.Progress(pb.ProgressRequest(job_id=sys.argv[2])) for _ in range(20)]
for stream in streams:
    next(stream)
print("watching", flush=True)
for message in streams[0]:
    pass
"""


async def test_a_frozen_client_is_noticed(service: Any, spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP: its twenty streams are given up by the server's pings, not by TCP's patience."""
    monkeypatch.setattr("impasto_server.app.PING_S", 5.0)
    monkeypatch.setattr("impasto_server.app.PING_TIMEOUT_S", 4.0)
    async with service(FakeWorker(hang=True), heartbeat_s=1.0) as running:
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FROZEN, running.running.address, job.job_id, stdout=subprocess.PIPE
        )
        assert client.stdout
        assert await asyncio.wait_for(client.stdout.readline(), 20) == b"watching\n"
        metrics = running.running.metrics
        assert metrics.registry.get_sample_value("impasto_progress_streams") == 20
        os.kill(client.pid, signal.SIGSTOP)
        began = time.monotonic()
        gone = await settles(lambda: metrics.registry.get_sample_value("impasto_progress_streams") == 0, 20)
        took = time.monotonic() - began
        os.kill(client.pid, signal.SIGKILL)
        await client.wait()
        assert gone
        assert took < 12, f"noticed after {took:.1f} s"
        await quiet(running)
