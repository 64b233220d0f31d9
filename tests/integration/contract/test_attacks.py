"""What one caller can do to all: each attack that once stopped a server, made small. The long ones are in tests/soak."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from impasto_server import app
from impasto_server.auth.tokens import new_token
from impasto_server.workers import pool as fleet
from tests.integration.contract.test_storms import settles
from tests.unit.server.fakes import FakeWorker

Spec = Callable[..., pb.JobSpec]


async def code_of(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def tokens(tmp_path: Path, *names: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """Return a token file and each one's metadata."""
    made = {name: new_token(name) for name in names}
    path = tmp_path / "tokens"
    path.write_text("".join(f"{line}\n" for _, line in made.values()))
    return str(path), {name: [("authorization", f"Bearer {token}")] for name, (token, _) in made.items()}


async def test_watching_a_job_right_after_cancelling_it_turns_no_loop(service: Any, spec: Spec, tmp_path: Path) -> None:
    """The end is told once, when it is safe; the loop goes on turning for everybody."""
    async with service(FakeWorker(hang=True), data_dir=str(tmp_path)) as running:
        await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))
        for _ in range(10):
            job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job
            cancelling = running.stub.CancelJob(pb.CancelJobRequest(job_id=job.job_id))
            seen = [message async for message in running.stub.Progress(pb.ProgressRequest(job_id=job.job_id), timeout=60)]
            assert [message.WhichOneof("event") for message in seen if message.WhichOneof("event") == "result"] == ["result"]
            numbers = [message.sequence for message in seen[1:]]
            assert len(numbers) == len(set(numbers))
            await cancelling


async def test_nobody_sees_or_controls_a_job_that_is_not_safe_yet(
    service: Any, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is committed it is not listed, not paused, not cancelled; afterwards everything works, for others too."""
    from impasto_server.store.sqlite import DurableStore

    real = DurableStore._put_blob
    monkeypatch.setattr(DurableStore, "_put_blob", lambda *a: time.sleep(0.3) or real(*a))
    async with service(FakeWorker(hang=True), data_dir=str(tmp_path)) as running:
        submitting = asyncio.ensure_future(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec(), request_id="r")))
        store = running.running.jobs.store
        assert await settles(lambda: bool(store._jobs))
        (job_id,) = store._jobs
        assert (await running.stub.ListJobs(pb.ListJobsRequest())).jobs == []
        assert await code_of(running.stub.PauseJob(pb.PauseJobRequest(job_id=job_id))) == "NOT_FOUND"
        assert await code_of(running.stub.ResumeJob(pb.ResumeJobRequest(job_id=job_id))) == "NOT_FOUND"
        assert await code_of(anext(aiter(running.stub.Progress(pb.ProgressRequest(request_id="r"))))) == "NOT_FOUND"
        job = (await submitting).job
        assert job.job_id == job_id
        assert (await running.stub.GetJob(pb.GetJobRequest(job_id=job_id))).job.job_id == job_id
        await running.stub.CancelJob(pb.CancelJobRequest(job_id=job_id))
        assert await code_of(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))) == "OK"
        assert running.running.jobs.supervisor.audit() == []


async def test_a_scheduler_that_fails_makes_the_server_not_ready(
    service: Any, spec: Spec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and counted, health says so, and new jobs are refused instead of being taken and lost."""
    async with service() as running:
        monkeypatch.setattr(running.running.jobs.scheduler, "decide", lambda: {}["gone"])
        await code_of(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec())))
        assert not running.running.jobs.dispatcher.accepting
        assert await code_of(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))) == "UNAVAILABLE"
        assert running.running.metrics.registry.get_sample_value("impasto_faults_total", {"kind": "scheduler"}) == 1
        health = health_pb2_grpc.HealthStub(running.channel)
        until = time.monotonic() + 60
        while (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
    assert "the scheduler failed" in caplog.text


async def test_without_a_token_no_message_is_received(service: Any, spec: Spec, tmp_path: Path) -> None:
    """A large one, one of very many fields, and one that never ends are refused from the metadata alone."""
    path, _ = tokens(tmp_path, "ann")
    async with service(tokens=path) as running:
        raw = running.channel.unary_unary("/impasto.v1.StyleTransferService/SubmitJob")
        for body in (bytes(8 << 20), b"\x0a\x80\x80\x80\x04" + b"\x12\x00" * (4 << 20)):
            assert await code_of(raw(body, timeout=120)) == "UNAUTHENTICATED"

        async def endless() -> Any:
            yield pb.UploadImageRequest(start=pb.UploadStart(sha256="0" * 64, size_bytes=10))
            await asyncio.sleep(60)

        assert await code_of(running.stub.UploadImage(endless(), timeout=120)) == "UNAUTHENTICATED"
        labels = {"grpc_type": "unary", "grpc_service": "impasto.v1.StyleTransferService", "grpc_method": "SubmitJob"}
        value = running.running.metrics.registry.get_sample_value
        assert value("grpc_server_msg_received_total", labels) == 0
        assert value("grpc_server_handled_total", {**labels, "grpc_code": "Unauthenticated"}) == 2


async def test_health_keeps_nothing_of_what_it_is_asked(service: Any) -> None:
    """Names that are no service, of any length, are unknown; the next change of a real one is still told."""
    async with service() as running:
        health = health_pb2_grpc.HealthStub(running.channel)
        for name in ("x", "y" * (1 << 20)):
            watching = health.Watch(health_pb2.HealthCheckRequest(service=name))
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            watching.cancel()
            assert await code_of(health.Check(health_pb2.HealthCheckRequest(service=name))) == "NOT_FOUND"
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


def _long(spec: pb.JobSpec, what: str) -> pb.JobSpec:
    parameters = spec.parameters
    if what == "styles":
        spec.styles.extend([pb.Style()] * 5000)
    elif what == "layers":
        parameters.content_layers.layers.extend([pb.LayerWeight(layer=f"l{number}") for number in range(5000)])
    elif what == "schedule":
        parameters.schedule.extend([pb.SizeSteps(size_px=1)] * 5000)
    elif what == "image_id":
        spec.styles.add().image.image_id = "\U000e0001" * 500_000
    else:
        parameters.preset = "\U000e0001" * 500_000
    return spec


@pytest.mark.parametrize("what", ["styles", "layers", "schedule", "image_id", "preset"])
async def test_long_lists_and_texts_cost_the_loop_nothing(service: Any, spec: Spec, what: str) -> None:
    """Refused by their length, in one short error, before anything is done for an entry."""
    request = pb.SubmitJobRequest(spec=_long(spec(), what))
    async with service() as running:
        turns = [time.monotonic()]

        async def turn() -> None:
            while True:
                turns.append(time.monotonic())
                await asyncio.sleep(0.005)

        turning = asyncio.create_task(turn())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.stub.SubmitJob(request)
        turning.cancel()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(caught.value.details() or "") < 1000
        # It was seconds; a busy machine may take a part of one.
        assert max(later - earlier for earlier, later in itertools.pairwise(turns)) < 1.0


async def test_many_states_are_a_set(service: Any) -> None:
    """A list of them is refused by its length; a repeated one counts once."""
    async with service() as running:
        assert (await running.stub.ListJobs(pb.ListJobsRequest(states=[1, 1, 2]))).jobs == []
        assert await code_of(running.stub.ListJobs(pb.ListJobsRequest(states=[1] * 10_000))) == "INVALID_ARGUMENT"
        assert await code_of(running.stub.ListJobs(pb.ListJobsRequest(states=[77]))) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("data_dir", ["folder", ":memory:"])
async def test_waiting_jobs_hold_no_pictures_in_memory(service: Any, spec: Spec, tmp_path: Path, data_dir: str) -> None:
    """They lie on the disk until a job starts, also those of a restarted server, and go with their job."""
    folder = str(tmp_path) if data_dir == "folder" else data_dir
    async with service(FakeWorker(hang=True), data_dir=folder) as running:
        for _ in range(3):
            await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))
        jobs = list(running.running.jobs.store._jobs.values())
        files = {Path(job.spec.content.rgb) for job in jobs} | {Path(job.spec.styles[0].picture.rgb) for job in jobs}
        assert all(path.is_file() for path in files)
        if data_dir == ":memory:":
            for job in jobs:
                await running.stub.DeleteJob(pb.DeleteJobRequest(job_id=job.job_id))
            assert not any(path.exists() for path in files)
    if data_dir == "folder":
        async with service(FakeWorker(hang=True), data_dir=folder) as running:
            jobs = list(running.running.jobs.store._jobs.values())
            assert len(jobs) == 3
            assert {Path(job.spec.content.rgb) for job in jobs} <= files


async def test_paused_jobs_are_counted_and_expire(service: Any, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may be paused are refused; after the retention they are cancelled."""
    monkeypatch.setattr("impasto_server.jobs.admission.MIN_PAUSED", 3)
    async with service(FakeWorker(hang=True), max_queued_jobs=3, retention_s=3.0) as running:
        await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))
        ids = []
        for _ in range(3):
            job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job
            ids.append(job.job_id)
            await running.stub.PauseJob(pb.PauseJobRequest(job_id=job.job_id))
        assert await code_of(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))) == "RESOURCE_EXHAUSTED"

        def paused() -> int:
            seen = map(running.running.jobs.store.seen, ids)
            return sum(job is not None and job.state.value == "paused" for job in seen)

        assert paused() == 3
        assert await settles(lambda: paused() == 0)
        assert await code_of(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))) == "OK"


async def test_a_job_paused_at_once_still_has_its_time_limit(service: Any, spec: Spec, tmp_path: Path) -> None:
    """It fails at its limit though it never started."""
    async with service(FakeWorker(hang=True), data_dir=str(tmp_path)) as running:
        await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))
        limited = spec()
        limited.time_limit.CopyFrom(Duration(nanos=600_000_000))
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=limited))).job
        await running.stub.PauseJob(pb.PauseJobRequest(job_id=job.job_id))
        until = time.monotonic() + 10
        while (await running.stub.GetJob(pb.GetJobRequest(job_id=job.job_id))).job.state != pb.JOB_STATE_FAILED:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


async def test_a_worker_that_says_nothing_is_replaced(service: Any, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job goes on with the next one, and ends."""
    monkeypatch.setattr(fleet, "SILENCE_S", 1.0)
    worker = FakeWorker(hang=True, silent=True)
    async with service(worker) as running:
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job
        await asyncio.sleep(0.3)
        worker.hang = False
        assert await settles(lambda: worker.births >= 2)
        until = time.monotonic() + 15
        while (await running.stub.GetJob(pb.GetJobRequest(job_id=job.job_id))).job.state != pb.JOB_STATE_SUCCEEDED:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


async def test_a_server_that_stood_still_blames_no_worker(service: Any, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they said meanwhile is in their pipes; one that is really silent is noticed later."""
    monkeypatch.setattr(fleet, "SILENCE_S", 1.0)
    monkeypatch.setattr(fleet, "ASLEEP_S", 1.2)
    worker = FakeWorker(hang=True, silent=True)
    async with service(worker) as running:
        await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))
        await asyncio.sleep(0.1)
        time.sleep(1.5)  # noqa: ASYNC251 - the whole process, as SIGSTOP does
        running.running.jobs.supervisor.look()
        assert worker.births == 1
        assert await settles(lambda: worker.births >= 2)


async def test_silent_connections_are_closed_and_leave_descriptors_for_jobs(
    service: Any, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of them are kept from connections; a silent one has a limited time for its first bytes."""
    monkeypatch.setattr(app, "HANDSHAKE_S", 1.0)
    monkeypatch.setattr(app, "MAX_CONNECTIONS", 8)
    async with service() as running:
        await running.stub.GetServerInfo(pb.GetServerInfoRequest())
        host, _, port = running.running.address.rpartition(":")
        strangers = [socket.create_connection((host, int(port))) for _ in range(20)]
        await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))
        began = time.monotonic()
        for stranger in strangers:
            stranger.settimeout(10)
            while await asyncio.to_thread(_received, stranger):
                pass  # the server's settings come first
            stranger.close()
        assert time.monotonic() - began < 8
        async with grpc.aio.insecure_channel(running.running.address) as channel:
            stub = pb_grpc.StyleTransferServiceStub(channel)
            assert (await stub.GetServerInfo(pb.GetServerInfoRequest())).accepting


def _received(stranger: socket.socket) -> bytes:
    try:
        return stranger.recv(4096)
    except ConnectionError:
        return b""


async def test_a_stylize_whose_job_is_deleted_is_told_so(service: Any, spec: Spec) -> None:
    """NOT_FOUND or CANCELLED, never INTERNAL."""
    async with service(FakeWorker(hang=True)) as running:
        waiting = running.stub.Stylize(pb.StylizeRequest(spec=spec(), request_id="r"))
        called = asyncio.ensure_future(code_of(waiting))
        assert await settles(lambda: running.running.jobs.dispatcher.running == 1)
        (job_id,) = running.running.jobs.table.runtimes
        await running.stub.DeleteJob(pb.DeleteJobRequest(job_id=job_id))
        assert await called in ("NOT_FOUND", "CANCELLED")


async def test_nothing_tells_of_anothers_jobs(service: Any, spec: Spec, tmp_path: Path) -> None:
    """Page tokens count the caller's own jobs; the storage figure is the same whether or not another has the same picture."""
    path, metadata = tokens(tmp_path, "ann", "bob")
    async with service(FakeWorker(hang=True), tokens=path, data_dir=str(tmp_path / "data")) as running:

        async def submit(who: str) -> None:
            await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()), metadata=metadata[who])

        async def token() -> str:
            return (await running.stub.ListJobs(pb.ListJobsRequest(page_size=1), metadata=metadata["bob"])).next_page_token

        async def used() -> int:
            info = await running.stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=metadata["bob"])
            return info.storage.used_bytes

        await submit("bob")
        alone = await used()
        await submit("bob")
        one = await token()
        for _ in range(3):
            await submit("ann")
        before = await used()
        await submit("bob")
        import base64

        assert int(base64.urlsafe_b64decode(await token())[1:]) - int(base64.urlsafe_b64decode(one)[1:]) == 1
        assert await used() - before == alone
        listed = await running.stub.ListJobs(pb.ListJobsRequest(page_size=2), metadata=metadata["bob"])
        rest = await running.stub.ListJobs(
            pb.ListJobsRequest(page_size=2, page_token=listed.next_page_token), metadata=metadata["bob"]
        )
        assert len(listed.jobs) + len(rest.jobs) == 3
        assert {job.owner for job in (*listed.jobs, *rest.jobs)} == {"bob"}


async def test_a_download_that_is_not_read_holds_a_piece(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read as the reader takes it."""
    data = os.urandom(24 << 20)
    digest = hashlib.sha256(data).hexdigest()
    async with service() as running:

        async def pieces() -> Any:
            yield pb.UploadImageRequest(start=pb.UploadStart(sha256=digest, size_bytes=len(data)))
            for start in range(0, len(data), 4 << 20):
                yield pb.UploadImageRequest(chunk=data[start : start + (4 << 20)])

        assert (await running.stub.UploadImage(pieces())).image_id == digest
        stream = running.stub.DownloadImage(pb.DownloadImageRequest(image_id=digest))
        pieces_read = aiter(stream)
        first = await anext(pieces_read)
        await asyncio.sleep(0.5)
        labels = {
            "grpc_type": "server_stream",
            "grpc_service": "impasto.v1.StyleTransferService",
            "grpc_method": "DownloadImage",
        }
        sent = running.running.metrics.registry.get_sample_value("grpc_server_msg_sent_total", labels)
        assert sent < 20
        rest = [message.chunk async for message in pieces_read]
        assert first.chunk + b"".join(rest) == data


async def test_one_owner_asks_one_question_at_a_time(service: Any, png: Any, tmp_path: Path) -> None:
    """A second is told that it has its quota; another owner's is answered."""
    path, metadata = tokens(tmp_path, "ann", "bob")
    worker = FakeWorker(deaf=True)
    async with service(worker, tokens=path) as running:
        request = pb.InspectFeaturesRequest(image=pb.Image(data=png()), layer="relu1_1")
        first = running.stub.InspectFeatures(request, metadata=metadata["ann"])
        assert await settles(lambda: bool(running.running.jobs.pool._asking))
        assert await code_of(running.stub.InspectFeatures(request, metadata=metadata["ann"])) == "RESOURCE_EXHAUSTED"
        worker.deaf = False
        assert await code_of(running.stub.InspectFeatures(request, metadata=metadata["bob"])) == "OK"
        first.cancel()
