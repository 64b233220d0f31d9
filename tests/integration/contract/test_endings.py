"""Every way in which a call can end says why, in the contract's words and not in gRPC's."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from impasto_server.api import service as api
from impasto_server.jobs.dispatcher import Dispatcher
from tests.unit.server.fakes import FakeWorker

PNG = b"\x89PNG"


async def ending(call: Any) -> tuple[str, str, float]:
    """Return a call's status code, the reason in its ErrorInfo, and when to retry."""
    try:
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
            await call.code()
            if await call.code() is grpc.StatusCode.OK:
                return "OK", "", 0.0
            raise grpc.aio.AioRpcError(await call.code(), None, await call.trailing_metadata(), await call.details())
        await call
    except grpc.aio.AioRpcError as error:
        reason, retry_s = "", 0.0
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason = f"{info.domain}:{info.reason}"
            elif detail.Unpack(retry):
                retry_s = retry.retry_delay.ToMilliseconds() / 1000
        return error.code().name, reason, retry_s
    return "OK", "", 0.0


async def endless(sha256: str) -> AsyncIterator[pb.UploadImageRequest]:
    """Start an upload and send no more."""
    yield pb.UploadImageRequest(start=pb.UploadStart(sha256=sha256, size_bytes=100))
    await asyncio.sleep(60)


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "disk"])
async def test_calls_that_wait_while_the_server_drains_are_told(
    service: Any, spec: Callable[..., pb.JobSpec], tmp_path: Any, durable: bool
) -> None:
    """UNAVAILABLE, DRAINING, with when to retry, at most a second after the grace time; streams and uploads too."""
    settings = {"data_dir": str(tmp_path)} if durable else {}
    async with contextlib.AsyncExitStack() as outlives:
        async with service(FakeWorker(hang=True), grace_s=0.3, **settings) as running:
            channel = await outlives.enter_async_context(grpc.aio.insecure_channel(running.running.address))
            stub = pb_grpc.StyleTransferServiceStub(channel)
            job = (await stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job
            watching = stub.Progress(pb.ProgressRequest(job_id=job.job_id))
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            uploading = stub.UploadImage(endless(hashlib.sha256(b"x").hexdigest()))
            waiting = stub.Stylize(pb.StylizeRequest(spec=spec(seed=9)))
            tasks = [asyncio.ensure_future(ending(call)) for call in (watching, health, waiting, uploading)]
            await asyncio.sleep(0.3)
            began = time.monotonic()
        found = await asyncio.gather(*tasks)
    took = time.monotonic() - began
    draining = ("UNAVAILABLE", "impasto:DRAINING", 5.0)
    watched = draining if durable else ("OK", "", 0.0)  # without a disk the job ends, and its stream with it
    assert found == [watched, draining, draining, draining]
    assert took < 6


async def test_a_method_that_does_not_exist_is_told(service: Any) -> None:
    """By an older server to a newer client."""
    async with service() as running:
        call = running.channel.unary_unary("/impasto.v1.StyleTransferService/PaintTheHouse")
        assert (await ending(call(b"")))[:2] == ("UNIMPLEMENTED", "impasto:METHOD_UNKNOWN")

        async def never_ends() -> AsyncIterator[bytes]:
            await asyncio.sleep(60)
            yield b"first"

        # It is told before its messages are received: nobody's token was checked.
        sending = running.channel.stream_unary("/impasto.v1.StyleTransferService/PaintTheHouse")(never_ends())
        assert (await asyncio.wait_for(ending(sending), 60))[:2] == ("UNIMPLEMENTED", "impasto:METHOD_UNKNOWN")


async def test_a_request_id_that_was_used_has_a_reason_of_its_own(service: Any, spec: Callable[..., pb.JobSpec]) -> None:
    """A program must tell it from a wrong field."""
    async with service() as running:
        await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec(), request_id="mine"))
        again = running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec(9), request_id="mine"))
        assert (await ending(again))[:2] == ("INVALID_ARGUMENT", "impasto:REQUEST_ID_REUSED")


async def test_a_picture_that_does_not_fit_is_left_out_and_downloaded(
    service: Any, spec: Callable[..., pb.JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Stylize, GetResult and Progress; in pieces, from any offset, with its hash."""
    monkeypatch.setattr(api, "CHUNK_BYTES", 1000)
    async with service() as running:
        stub = running.stub
        whole = (await stub.Stylize(pb.StylizeRequest(spec=spec(), request_id="r"))).result
        assert whole.image.format == pb.IMAGE_FORMAT_PNG
        assert whole.image_bytes == len(whole.image.data) > 1200
        assert whole.image_sha256 == hashlib.sha256(whole.image.data).hexdigest()
        job_id, most = whole.job.job_id, 2000
        watched = stub.Progress(
            pb.ProgressRequest(job_id=job_id, resume_after_sequence=0, include_image=True, max_response_bytes=most)
        )
        results = [
            (await stub.Stylize(pb.StylizeRequest(spec=spec(), request_id="r", max_response_bytes=most))).result,
            (await stub.GetResult(pb.GetResultRequest(job_id=job_id, max_response_bytes=most))).result,
            await anext(message.result async for message in watched if message.HasField("result")),
        ]
        for result in results:
            assert not result.HasField("image")
            assert (result.image_bytes, result.image_sha256) == (whole.image_bytes, whole.image_sha256)
            assert result.ByteSize() < most
        for offset in (0, 1, 1000, whole.image_bytes):
            pieces = [
                piece async for piece in stub.DownloadResult(pb.DownloadResultRequest(job_id=job_id, offset_bytes=offset))
            ]
            assert b"".join(piece.chunk for piece in pieces) == whole.image.data[offset:]
            assert {(piece.size_bytes, piece.sha256) for piece in pieces} == {(whole.image_bytes, whole.image_sha256)}
        for offset in (-1, whole.image_bytes + 1):
            call = stub.DownloadResult(pb.DownloadResultRequest(job_id=job_id, offset_bytes=offset))
            assert (await ending(call))[:2] == ("INVALID_ARGUMENT", "impasto:INVALID_FIELD")
        call = stub.GetResult(pb.GetResultRequest(job_id=job_id, max_response_bytes=-1))
        assert (await ending(call))[:2] == ("INVALID_ARGUMENT", "impasto:INVALID_FIELD")
        assert (await ending(stub.DownloadResult(pb.DownloadResultRequest(job_id="nosuch"))))[1] == "impasto:JOB_NOT_FOUND"


async def test_a_watcher_who_does_not_want_the_picture_reads_none(
    service: Any, spec: Callable[..., pb.JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands may watch a job whose picture has many megabytes."""
    async with service(FakeWorker()) as running:
        job_id = (await running.stub.Stylize(pb.StylizeRequest(spec=spec()))).result.job.job_id
        read: list[str] = []
        monkeypatch.setattr(Dispatcher, "result", lambda _, job: read.append(job) or PNG)
        for include in (False, True):
            request = pb.ProgressRequest(job_id=job_id, resume_after_sequence=0, include_image=include)
            events = [event async for event in running.stub.Progress(request)]
            assert events[-1].result.image.data == (PNG if include else b"")
            assert read == ([job_id] if include else [])
