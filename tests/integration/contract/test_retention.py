"""What survives, over the wire: pausing, time limits, uploads, and a client that comes back after its server was away."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

import impasto
from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from tests.unit.server.fakes import FakeWorker

Service = Callable[..., Any]
Spec = Callable[..., pb.JobSpec]


async def test_a_job_is_paused_resumed_and_deleted(service: Service, spec: Spec) -> None:
    """With the states and events of the contract."""
    async with service(FakeWorker(step_s=0.01)) as running:
        stub = running.stub
        job_id = (await stub.SubmitJob(pb.SubmitJobRequest(spec=spec(steps=20)))).job.job_id
        await asyncio.sleep(0.05)
        await stub.PauseJob(pb.PauseJobRequest(job_id=job_id))
        await asyncio.sleep(0.05)
        job = (await stub.GetJob(pb.GetJobRequest(job_id=job_id))).job
        assert job.state == pb.JOB_STATE_PAUSED
        listed = await stub.ListJobs(pb.ListJobsRequest(states=[pb.JOB_STATE_PAUSED]))
        assert [item.job_id for item in listed.jobs] == [job_id]
        resumed = (await stub.ResumeJob(pb.ResumeJobRequest(job_id=job_id))).job
        assert resumed.state == pb.JOB_STATE_RUNNING
        events = [event async for event in stub.Progress(pb.ProgressRequest(job_id=job_id, resume_after_sequence=0))]
        pauses = [event.pause for event in events if event.HasField("pause")]
        assert [(pause.reason, pause.step) for pause in pauses] == [(pb.PAUSE_REASON_REQUESTED, job.step)]
        assert [event.start.step for event in events if event.HasField("start")] == [0, job.step]
        await stub.DeleteJob(pb.DeleteJobRequest(job_id=job_id))
        for call in (stub.GetJob(pb.GetJobRequest(job_id=job_id)), stub.PauseJob(pb.PauseJobRequest(job_id=job_id))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stylize_call_that_wants_the_best_gets_it_before_its_deadline(service: Service, spec: Spec) -> None:
    """A second before it; one that wants all of it gets DEADLINE_EXCEEDED."""
    async with service(FakeWorker(step_s=0.01)) as running:
        wanted = spec(steps=10_000)
        wanted.on_deadline = pb.ON_DEADLINE_RETURN_BEST
        response = await running.stub.Stylize(pb.StylizeRequest(spec=wanted), timeout=4)
        assert response.result.job.stop_reason == pb.STOP_REASON_DEADLINE
        assert response.result.image.data.startswith(b"\x89PNG")
        wanted.on_deadline = pb.ON_DEADLINE_FAIL
        wanted.time_limit.CopyFrom(Duration(nanos=200_000_000))
        with pytest.raises(grpc.aio.AioRpcError, match="time limit") as caught:
            await running.stub.Stylize(pb.StylizeRequest(spec=wanted))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda spec: spec.time_limit.CopyFrom(Duration(seconds=-1)), "time_limit"),
        (lambda spec: spec.ttl.CopyFrom(Duration(seconds=1 << 33)), "ttl"),
        (lambda spec: setattr(spec, "priority", 11), "priority"),
        (lambda spec: setattr(spec.parameters, "levels", 9), "parameters.levels"),
        (lambda spec: setattr(spec, "on_deadline", 7), "on_deadline"),
        (lambda spec: setattr(spec.content, "image_id", "0" * 64), "content.image_id"),
    ],
)
async def test_what_cannot_be_is_named(service: Service, spec: Spec, change: Callable[[pb.JobSpec], None], field: str) -> None:
    """By its field."""
    async with service() as running, impasto.AsyncClient(running.running.address) as client:
        wrong = spec()
        change(wrong)
        with pytest.raises(impasto.InvalidRequest) as caught:
            await client._call(client._stub.SubmitJob, pb.SubmitJobRequest(spec=wrong), 5.0)
        assert [violation.field for violation in caught.value.violations] == [field]


async def test_a_picture_is_sent_once_and_named_in_jobs(service: Service, png: Callable[..., bytes]) -> None:
    """The same bytes come back; a second upload sends nothing; the job is that of the bytes themselves."""
    async with service() as running, impasto.AsyncClient(running.running.address) as client:
        style = await client.upload(png(seed=2))
        assert style.image_id == hashlib.sha256(png(seed=2)).hexdigest()
        assert await client.upload(png(seed=2)) == style
        assert await client.upload(style) == style
        assert await client.download(style) == png(seed=2)
        for offset in (10, len(png(seed=2))):
            rest = client._stub.DownloadImage(pb.DownloadImageRequest(image_id=style.image_id, offset_bytes=offset))
            assert b"".join([piece.chunk async for piece in rest]) == png(seed=2)[offset:]
        for offset in (-1, len(png(seed=2)) + 1):
            rest = client._stub.DownloadImage(pb.DownloadImageRequest(image_id=style.image_id, offset_bytes=offset))
            with pytest.raises(grpc.aio.AioRpcError, match="offset_bytes"):
                await rest.read()
        result = await client.stylize(png(), style, size_px=48, steps=2)
        assert result.job.state == "succeeded"
        with pytest.raises(impasto.NotFound):
            await client.download("0" * 64)


async def test_an_upload_that_broke_off_goes_on(service: Service, png: Callable[..., bytes]) -> None:
    """The server says how much is there, also when the rest never came; pieces in the wrong place are refused."""
    data = png(400, 300)
    image_id = hashlib.sha256(data).hexdigest()

    async def send(offset: int, *chunks: bytes) -> AsyncIterator[pb.UploadImageRequest]:
        yield pb.UploadImageRequest(start=pb.UploadStart(sha256=image_id, size_bytes=len(data), offset_bytes=offset))
        for chunk in chunks:
            yield pb.UploadImageRequest(chunk=chunk)

    async with service() as running:
        upload = running.stub.UploadImage
        first = await upload(send(0, data[:100], data[100:500]))
        assert (first.image_id, first.received_bytes) == ("", 500)
        with pytest.raises(grpc.aio.AioRpcError, match="offset_bytes"):
            await upload(send(600, data[600:]))
        whole = await upload(send(500, data[500:]))
        assert (whole.image_id, whole.received_bytes) == (image_id, len(data))
        with pytest.raises(grpc.aio.AioRpcError, match="must be the first"):
            await upload(iter([pb.UploadImageRequest(chunk=b"x")]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_client_comes_back_after_its_server_was_away(
    service: Service, tmp_path: Path, png: Callable[..., bytes]
) -> None:
    """Watching goes on without gap or duplicate, and a call that was cut off gets the same job's result."""
    settings = {"data_dir": str(tmp_path), "listen": f"127.0.0.1:{_free_port()}", "grace_s": 0.0}
    async with impasto.AsyncClient(str(settings["listen"]), patience_s=20) as client:
        seen: list[impasto.results.Event] = []

        async def watch(job: impasto.AsyncJob) -> None:
            seen.extend([event async for event in job.progress(resume_after=0, image=True)])

        async with service(FakeWorker(step_s=0.02), **settings):
            job = await client.submit(png(), png(seed=1), size_px=48, steps=60)
            watching = asyncio.create_task(watch(job))
            waiting = asyncio.create_task(client.stylize(png(), png(seed=2), size_px=48, steps=10))
            await asyncio.sleep(0.4)
        assert not watching.done()
        await asyncio.sleep(0.3)
        async with service(FakeWorker(step_s=0.005), **settings):
            await asyncio.wait_for(watching, 20)
            result = await asyncio.wait_for(waiting, 20)
            jobs = [info async for info in client.jobs()]
    assert result.job.state == "succeeded"
    assert len(jobs) == 2
    numbered = [event.sequence for event in seen if not isinstance(event, (impasto.Snapshot, impasto.Heartbeat))]
    assert numbered == list(range(1, len(numbered) + 1))
    assert [event.step for event in seen if isinstance(event, impasto.Step)] == list(range(1, 61))
    assert sum(isinstance(event, impasto.Snapshot) for event in seen) == 1
    assert isinstance(seen[-1], impasto.Finished)


async def test_a_server_that_never_answered_is_not_waited_for() -> None:
    """Its address is more likely wrong."""
    began = time.monotonic()
    async with impasto.AsyncClient(f"127.0.0.1:{_free_port()}") as client:
        with pytest.raises(impasto.Unavailable):
            await client.server_info()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_server_that_falls_silent_is_noticed(
    service: Service, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Heartbeats keep a watch alive; without them it is given up, or made anew as long as there is patience."""
    monkeypatch.setattr("impasto.transport.SILENCE_S", 2.0)
    calm, mute = FakeWorker(hang=True), FakeWorker(hang=True)
    async with service(calm, heartbeat_s=0.2) as running, impasto.AsyncClient(running.running.address) as client:
        job = await client.submit(png(), png(seed=1), size_px=48)
        with pytest.raises(impasto.WaitTimeout, match="not finished within 4 s; the job continues"):
            async for _ in job.progress(timeout_s=4):
                pass
    async with service(mute, heartbeat_s=100.0) as running:
        address = running.running.address
        async with impasto.AsyncClient(address, patience_s=0) as client:
            job = await client.submit(png(), png(seed=1), size_px=48)

            def watch() -> None:
                with impasto.Client(address, patience_s=0) as other:
                    for _ in other.job(job.job_id).progress():
                        pass

            async def watch_async() -> None:
                async for _ in job.progress():
                    pass

            with pytest.raises(impasto.Unavailable, match="silent"):
                await asyncio.wait_for(asyncio.to_thread(watch) if kind == "sync" else watch_async(), 30)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_end_is_told_once_though_the_server_dies_with_it(kind: str) -> None:
    """The result arrives, the stream's own end does not: the client has all it wanted and does not ask again."""
    asked = 0

    class Dying(pb_grpc.StyleTransferServiceServicer):
        async def Progress(self, request: Any, context: Any) -> AsyncIterator[pb.ProgressResponse]:
            nonlocal asked
            asked += 1
            job = pb.Job(job_id="a", state=pb.JOB_STATE_SUCCEEDED)
            yield pb.ProgressResponse(sequence=41, snapshot=job)
            yield pb.ProgressResponse(sequence=42, result=pb.JobResult(job=job))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")

    server = grpc.aio.server()
    pb_grpc.add_StyleTransferServiceServicer_to_server(Dying(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    if kind == "async":
        async with impasto.AsyncClient(f"127.0.0.1:{port}") as client:
            sequences = [event.sequence async for event in client.job("a").progress(resume_after=0)]
    else:

        def watch() -> list[int]:
            with impasto.Client(f"127.0.0.1:{port}") as client:
                return [event.sequence for event in client.job("a").progress(resume_after=0)]

        sequences = await asyncio.to_thread(watch)
    await server.stop(None)
    assert sequences == [41, 42]
    assert asked == 1
