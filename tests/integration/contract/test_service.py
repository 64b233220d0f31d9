from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2, status_pb2
from grpc._cython import cygrpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from PIL import Image

from impasto.transport import CHANNEL_OPTIONS, channel_options
from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from impasto_server import app
from impasto_server.app import options
from impasto_server.config import ServerConfig
from impasto_server.domain.job import Job
from impasto_server.jobs.dispatcher import Dispatcher
from tests.unit.server.fakes import FakeWorker

SUCCEEDED, CANCELLED, RUNNING = pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_CANCELLED, pb.JOB_STATE_RUNNING


async def fails(call: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo, dict[str, str]]:
    """Return code, ErrorInfo and field violations of a call that must fail, and check what every error must have."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert raw, f"{error.code()} carries no details: {error.details()}"
    status = status_pb2.Status.FromString(raw)
    assert status.message == error.details()
    info, violations = error_details_pb2.ErrorInfo(), {}
    for detail in status.details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            violations = {item.field: item.description for item in request.field_violations}
        else:
            detail.Unpack(info)
    assert info.domain == "impasto"
    assert info.reason == info.reason.upper() != ""
    return error.code(), info, violations


async def job_of(running: Any, request_id: str) -> str:
    """Return the server's id of a job that was handed in under ours, as soon as it is there."""
    while True:
        call = running.stub.Progress(pb.ProgressRequest(request_id=request_id))
        try:
            job_id = (await call.read()).snapshot.job_id
            call.cancel()
            return str(job_id)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND
            await asyncio.sleep(0.01)


async def test_stylize_returns_the_picture_and_how_it_came_about(service: Any, spec: Any) -> None:
    """One call; the job's id comes ahead of the answer."""
    async with service() as running:
        call = running.stub.Stylize(pb.StylizeRequest(spec=spec()))
        # Python's own aio client hands out the initial metadata of a unary call only with its answer; others at once.
        job_id = dict(await call.initial_metadata())["impasto-job-id"]
        result = (await call).result
        assert result.job.job_id == job_id
        assert (result.job.state, result.job.stop_reason) == (SUCCEEDED, pb.STOP_REASON_STEPS)
        assert (result.job.step, result.job.evaluations, result.job.attempts) == (3, 3, 1)
        assert result.job.network.weights == "builtin"
        assert result.job.parameters.precision == pb.PRECISION_FLOAT32
        assert result.job.timings.queue.ToNanoseconds() >= 0
        image = Image.open(io.BytesIO(result.image.data))
        assert (image.format, image.size) == ("PNG", (result.job.width_px, result.job.height_px)) == ("PNG", (48, 40))


async def test_progress_tells_a_job_that_stylize_runs(service: Any, spec: Any) -> None:
    """Watched from another call by the client's own id: snapshot first, numbered events, result last."""
    async with service(FakeWorker(step_s=0.02)) as running:
        painting = asyncio.ensure_future(running.stub.Stylize(pb.StylizeRequest(spec=spec(5), request_id="mine")))
        while not running.running.jobs.store.page(None, 1):
            await asyncio.sleep(0.01)
        request = pb.ProgressRequest(request_id="mine", resume_after_sequence=0, include_image=True)
        events = [message async for message in running.stub.Progress(request)]
        kinds = [message.WhichOneof("event") for message in events]
        assert kinds == ["snapshot", "start", *["step"] * 5, "result"]
        assert [message.sequence for message in events[1:]] == list(range(1, 8))
        assert events[-1].result.image.data == (await painting).result.image.data
        step = events[2].step
        assert (step.step, step.steps, step.evaluations) == (1, 5, 1)
        assert step.losses.total == pytest.approx(step.losses.content + step.losses.style)


async def test_previews_are_sent_to_those_who_want_them(service: Any, spec: Any) -> None:
    """The job makes them every second step; a watcher who did not ask gets the steps without."""
    async with service(FakeWorker(step_s=0.1)) as running:  # it is watched while it runs
        job_spec = spec(4)
        job_spec.output.preview_every_steps = 2
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=job_spec))).job
        watch = lambda **kw: running.stub.Progress(pb.ProgressRequest(job_id=job.job_id, resume_after_sequence=0, **kw))  # noqa: E731
        with_them = [message.step.preview.data async for message in watch(include_previews=True)]
        without = [message.step.preview.data async for message in watch()]
        assert with_them[-2] == b"preview 4"
        assert not any(without)


async def test_submitted_jobs_can_be_asked_listed_and_fetched(service: Any, spec: Any) -> None:
    """SubmitJob returns at once; GetJob follows; ListJobs pages from the newest; GetResult has the picture."""
    async with service() as running:
        ids = [(await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job.job_id for _ in range(5)]
        async for message in running.stub.Progress(pb.ProgressRequest(job_id=ids[-1])):
            pass
        assert message.result.job.state == SUCCEEDED
        assert not message.result.HasField("image")
        found, token = [], ""
        for size in (2, 2, 1):
            page = await running.stub.ListJobs(pb.ListJobsRequest(page_size=2, page_token=token))
            assert len(page.jobs) == size
            found += [job.job_id for job in page.jobs]
            token = page.next_page_token
        assert (found, token) == (ids[::-1], "")
        only = await running.stub.ListJobs(pb.ListJobsRequest(states=[CANCELLED]))
        assert not only.jobs
        result = (await running.stub.GetResult(pb.GetResultRequest(job_id=ids[0]))).result
        assert result.image.data.startswith(b"\x89PNG")


async def test_cancelling_the_call_cancels_the_job(service: Any, spec: Any) -> None:
    """A client that leaves Stylize leaves no job behind; one that leaves Progress disturbs nothing."""
    async with service(FakeWorker(hang=True)) as running:
        call = running.stub.Stylize(pb.StylizeRequest(spec=spec(), request_id="mine"))
        job_id = await job_of(running, "mine")
        watching = running.stub.Progress(pb.ProgressRequest(job_id=job_id))
        await watching.read()
        watching.cancel()
        await asyncio.sleep(0.05)
        assert (await running.stub.GetJob(pb.GetJobRequest(job_id=job_id))).job.state == RUNNING
        call.cancel()
        await asyncio.sleep(0.05)
        job = (await running.stub.GetJob(pb.GetJobRequest(job_id=job_id))).job
        assert (job.state, job.stop_reason) == (CANCELLED, pb.STOP_REASON_ABANDONED)


async def test_a_caller_whose_connection_was_lost_gets_its_picture_by_asking_again(service: Any, spec: Any) -> None:
    """The job was cancelled for want of callers; it starts anew. One that was cancelled on purpose does not."""
    async with service(FakeWorker(step_s=0.02)) as running:
        request = pb.StylizeRequest(spec=spec(20), request_id="mine")
        seen: set[str] = set()
        for attempt in range(3):
            call = running.stub.Stylize(request)
            while (job_id := await job_of(running, "mine")) in seen:
                await asyncio.sleep(0.01)
            seen.add(job_id)
            if attempt < 2:
                call.cancel()
                await asyncio.sleep(0.1)
                job = (await running.stub.GetJob(pb.GetJobRequest(job_id=job_id))).job
                assert (job.request_id, job.state, job.stop_reason) == ("mine", CANCELLED, pb.STOP_REASON_ABANDONED)
        assert (await call).result.job.job_id == job_id
        code, _, violations = await fails(running.stub.Stylize(pb.StylizeRequest(spec=spec(21), request_id="mine")))
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["request_id"])
        request.request_id = "other"
        call = running.stub.Stylize(request)
        await running.stub.CancelJob(pb.CancelJobRequest(job_id=await job_of(running, "other")))
        assert (await fails(call))[1].reason == (await fails(running.stub.Stylize(request)))[1].reason == "JOB_CANCELLED"


async def test_a_call_that_joins_while_the_last_caller_leaves_is_told_to_ask_again(
    service: Any, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not told that somebody cancelled its job."""
    join = Dispatcher.join

    async def late(self: Dispatcher, job: Job, *, detached: bool) -> Job:
        first.cancel()
        await asyncio.sleep(0.1)
        return await join(self, job, detached=detached)

    monkeypatch.setattr(Dispatcher, "join", late)
    async with service(FakeWorker(step_s=0.02)) as running:
        request = pb.StylizeRequest(spec=spec(20), request_id="mine")
        first = running.stub.Stylize(request)
        await job_of(running, "mine")
        code, info, _ = await fails(running.stub.Stylize(request))
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "JOB_ABANDONED")
        assert (await running.stub.Stylize(request)).result.image.data


def test_the_arguments_of_channels_exist() -> None:
    """gRPC ignores those that it does not know; a wrong name once ended every Stylize call after 150 s."""
    known = Path(cygrpc.__file__).read_bytes()
    used = [*options(ServerConfig()), *channel_options("painter:50051"), *channel_options("localhost:50051")]
    assert not [name for name, _ in used if name.encode() + b"\0" not in known]


@pytest.mark.slow
async def test_a_call_that_waits_for_long_may_ping(service: Any, spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the client does every ten seconds; here it is faster."""
    monkeypatch.setattr(app, "MIN_PING_S", 0.5)
    faster = [
        ("grpc.keepalive_time_ms", 1000) if name == "grpc.keepalive_time_ms" else (name, value)
        for name, value in CHANNEL_OPTIONS
    ]
    async with (
        service(FakeWorker(hang=True)) as running,
        grpc.aio.insecure_channel(running.running.address, options=faster) as channel,
    ):
        waiting = asyncio.ensure_future(pb_grpc.StyleTransferServiceStub(channel).Stylize(pb.StylizeRequest(spec=spec())))
        await asyncio.sleep(6)
        assert not waiting.done()
        waiting.cancel()


async def test_a_deadline_ends_call_and_job(service: Any, spec: Any) -> None:
    """DEADLINE_EXCEEDED to the client, CANCELLED for the job, and the device is free."""
    async with service(FakeWorker(hang=True)) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.stub.Stylize(pb.StylizeRequest(spec=spec()), timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.sleep(0.05)
        queue = (await running.stub.GetServerInfo(pb.GetServerInfoRequest())).queue
        assert (queue.running, queue.queued) == (0, 0)


async def test_cancelling_a_job_ends_the_call_that_waits_for_it(service: Any, spec: Any) -> None:
    """From another connection; the waiting call says who it was about."""
    async with service(FakeWorker(hang=True)) as running:
        call = running.stub.Stylize(pb.StylizeRequest(spec=spec(), request_id="mine"))
        job_id = await job_of(running, "mine")
        await running.stub.CancelJob(pb.CancelJobRequest(job_id=job_id))
        code, info, _ = await fails(call)
        assert (code, info.reason, info.metadata["job_id"]) == (grpc.StatusCode.CANCELLED, "JOB_CANCELLED", job_id)
        code, info, _ = await fails(running.stub.GetResult(pb.GetResultRequest(job_id=job_id)))
        assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_HAS_NO_RESULT")


async def test_a_repeated_request_joins_and_another_body_is_refused(service: Any, spec: Any) -> None:
    """AIP-155: the same picture for the same id; a different spec names request_id."""
    async with service(FakeWorker(step_s=0.02)) as running:
        calls = [running.stub.Stylize(pb.StylizeRequest(spec=spec(), request_id="once")) for _ in range(3)]
        answers = await asyncio.gather(*calls)
        assert len({answer.result.job.job_id for answer in answers}) == 1
        assert len([command for command in running.worker.commands if hasattr(command, "spec")]) == 1
        code, _, violations = await fails(running.stub.Stylize(pb.StylizeRequest(spec=spec(9), request_id="once")))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(violations) == ["request_id"]


async def test_unknown_jobs_are_not_found(service: Any) -> None:
    """By every call that takes an id, with ErrorInfo."""
    async with service() as running:
        for call in (
            running.stub.GetJob(pb.GetJobRequest(job_id="no")),
            running.stub.CancelJob(pb.CancelJobRequest(job_id="no")),
            running.stub.GetResult(pb.GetResultRequest(job_id="no")),
            running.stub.Progress(pb.ProgressRequest(job_id="no")).read(),
            running.stub.Progress(pb.ProgressRequest(request_id="no")).read(),
        ):
            code, info, _ = await fails(call)
            assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


def change(path: str, value: Any) -> Callable[[pb.JobSpec], None]:
    """Return what sets a field of a spec."""

    def apply(spec: pb.JobSpec) -> None:
        target: Any = spec
        *parents, name = path.split(".")
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)

    return apply


def layers(*pairs: tuple[str, float]) -> Callable[[pb.JobSpec], None]:
    def apply(spec: pb.JobSpec) -> None:
        spec.parameters.style_layers.layers.extend(pb.LayerWeight(layer=name, weight=weight) for name, weight in pairs)

    return apply


WRONG: list[tuple[Callable[[pb.JobSpec], None], str]] = [
    (change("parameters.steps", 0), "parameters.steps"),
    (change("parameters.steps", -5), "parameters.steps"),
    (change("parameters.steps", 2**31 - 1), "parameters.steps"),
    (change("parameters.size_px", 1_000_000), "parameters.size_px"),
    (change("parameters.content_weight", math.nan), "parameters.content_weight"),
    (change("parameters.style_weight", -1.0), "parameters.style_weight"),
    (change("parameters.total_variation_weight", math.inf), "parameters.total_variation_weight"),
    (change("parameters.learning_rate", math.nan), "parameters.learning_rate"),
    (change("parameters.history", 10**6), "parameters.history"),
    (change("parameters.seed", -1), "parameters.seed"),
    (change("parameters.preset", "nonesuch"), "parameters.preset"),
    (change("parameters.optimizer", 99), "parameters.optimizer"),
    (change("parameters.pooling", 99), "parameters.pooling"),
    (change("output.format", 99), "output.format"),
    (change("output.quality", 0), "output.quality"),
    (change("output.preview_every_steps", -1), "output.preview_every_steps"),
    (change("output.preview_size_px", 100_000), "output.preview_size_px"),
    (change("content.data", b""), "content"),
    (change("content.data", b"hello"), "content"),
    (lambda spec: spec.content.ClearField("data"), "content"),
    (lambda spec: spec.styles[0].image.ClearField("data"), "styles[0].image"),
    (lambda spec: setattr(spec.styles[0], "weight", math.nan), "styles[0].weight"),
    (lambda spec: setattr(spec.styles[0], "weight", 0.0), "styles[0].weight"),
    (lambda spec: setattr(spec.styles[0].image, "data", b"\x89PNG"), "styles[0].image"),
    (lambda spec: spec.styles.extend([spec.styles[0]] * 8), "styles"),
    (layers(("relu9_1", 1.0)), "parameters.style_layers"),
    (layers(("relu1_1", 1.0), ("relu1_1", 1.0)), "parameters.style_layers"),
    (layers(("relu1_1", math.nan)), "parameters.style_layers[relu1_1].weight"),
]


@pytest.mark.parametrize(("wrong", "field"), WRONG)
async def test_each_wrong_field_is_named(service: Any, spec: Any, wrong: Any, field: str) -> None:
    """INVALID_ARGUMENT with exactly this violation, from Stylize and SubmitJob alike; the server goes on."""
    async with service() as running:
        job_spec = spec()
        wrong(job_spec)
        for call in (
            running.stub.Stylize(pb.StylizeRequest(spec=job_spec)),
            running.stub.SubmitJob(pb.SubmitJobRequest(spec=job_spec)),
        ):
            code, info, violations = await fails(call)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert info.reason == "INVALID_FIELD"
            assert list(violations) == [field]
        assert (await running.stub.Stylize(pb.StylizeRequest(spec=spec()))).result.job.state == SUCCEEDED


async def test_an_empty_job_is_refused(service: Any) -> None:
    """Neither content nor styles."""
    async with service() as running:
        code, _, violations = await fails(running.stub.Stylize(pb.StylizeRequest()))
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["content"])


async def test_all_wrong_fields_are_named_at_once(service: Any, spec: Any) -> None:
    """Numbers first, since pictures are costly; then all pictures."""
    async with service() as running:
        job_spec = spec(0, seed=-1)
        _, _, violations = await fails(running.stub.Stylize(pb.StylizeRequest(spec=job_spec)))
        assert set(violations) == {"parameters.steps", "parameters.seed"}
        job_spec = spec()
        job_spec.content.data = job_spec.styles[0].image.data = b"?"
        _, _, violations = await fails(running.stub.Stylize(pb.StylizeRequest(spec=job_spec)))
        assert set(violations) == {"content", "styles[0].image"}


async def test_listing_checks_its_arguments(service: Any) -> None:
    """Negative sizes, foreign tokens and states that are none."""
    async with service() as running:
        for request, field in (
            (pb.ListJobsRequest(page_size=-1), "page_size"),
            (pb.ListJobsRequest(page_token="%%%"), "page_token"),
            (pb.ListJobsRequest(page_token="bm90"), "page_token"),
            (pb.ListJobsRequest(states=[77]), "states"),
        ):
            code, _, violations = await fails(running.stub.ListJobs(request))
            assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_watching_checks_its_arguments(service: Any, spec: Any) -> None:
    """No job named, and numbers that have not happened."""
    async with service(FakeWorker(hang=True)) as running:
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job
        for request, field in (
            (pb.ProgressRequest(), "job_id"),
            (pb.ProgressRequest(job_id=job.job_id, resume_after_sequence=-1), "resume_after_sequence"),
            (pb.ProgressRequest(job_id=job.job_id, resume_after_sequence=99), "resume_after_sequence"),
        ):
            code, _, violations = await fails(running.stub.Progress(request).read())
            assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_job_is_cancelled_by_one_id(service: Any, spec: Any) -> None:
    """Its own or its request's; neither and both are refused, and other callers' requests are not found."""
    async with service(FakeWorker(hang=True)) as running:
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec(), request_id="mine"))).job
        for request in (pb.CancelJobRequest(), pb.CancelJobRequest(job_id=job.job_id, request_id="mine")):
            code, _, violations = await fails(running.stub.CancelJob(request))
            assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["job_id"])
        code, info, _ = await fails(running.stub.CancelJob(pb.CancelJobRequest(request_id="other")))
        assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        assert (await running.stub.CancelJob(pb.CancelJobRequest(request_id="mine"))).job.job_id == job.job_id


async def test_overload_says_when_to_come_back(service: Any, spec: Any) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo and queue figures."""
    async with service(FakeWorker(hang=True), max_running_jobs=1, max_queued_jobs=1) as running:
        for _ in range(2):
            await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))
        status = rpc_status.from_call(caught.value)
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.seconds > 0
        code, info, _ = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec())))
        assert (code, info.reason, info.metadata["queued"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "1")


async def test_a_failed_job_fails_its_call_with_its_reason(service: Any, spec: Any) -> None:
    """What the engine could not do is the job's reason."""
    async with service(FakeWorker(fail_with=("OUT_OF_MEMORY", "too large"))) as running:
        code, info, _ = await fails(running.stub.Stylize(pb.StylizeRequest(spec=spec())))
        assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")


async def test_the_server_describes_itself(service: Any) -> None:
    """Version, device, network with its layers, presets with everything filled in, limits."""
    async with service(max_size_px=777) as running:
        info = await running.stub.GetServerInfo(pb.GetServerInfoRequest())
        assert info.accepting
        assert (info.devices[0].name, info.devices[0].ready) == ("cpu", True)
        assert "relu5_1" in info.networks[0].layers
        presets = {preset.name: preset.parameters for preset in info.presets}
        assert set(presets) == {"default", "draft", "good", "best", "seed", "gatys", "neural-style", "preview"}
        assert presets["default"].color == pb.COLOR_STYLE
        assert info.networks[0].id == "vgg16:builtin"
        assert {network.id for network in info.networks[1:]} >= {"alexnet:random-SEED", "squeezenet1_1:random-SEED"}
        assert presets["seed"].style_weight == 1e3
        assert info.limits.max_size_px == 777


async def test_the_preset_is_the_start_and_given_fields_win(service: Any, spec: Any) -> None:
    """What a job was made of stands in its record."""
    async with service() as running:
        job_spec = spec(preset="seed", style_weight=5.0)
        parameters = (await running.stub.Stylize(pb.StylizeRequest(spec=job_spec))).result.job.parameters
        assert (parameters.style_weight, parameters.content_weight, parameters.init) == (5.0, 1e-3, pb.INIT_NOISE)


async def test_a_texture_starts_from_noise_by_itself(service: Any, spec: Any) -> None:
    """Without content the start need not be said; saying 'content' is an error."""
    async with service() as running:
        job_spec = spec()
        job_spec.ClearField("content")
        job = (await running.stub.Stylize(pb.StylizeRequest(spec=job_spec))).result.job
        assert job.parameters.init == pb.INIT_NOISE
        job_spec.parameters.init = pb.INIT_CONTENT
        _, _, violations = await fails(running.stub.Stylize(pb.StylizeRequest(spec=job_spec)))
        assert list(violations) == ["parameters.init"]


async def test_health_follows_the_workers(service: Any) -> None:
    """NOT_SERVING until a worker is ready, SERVING then, for the whole and for the service; unknown names NOT_FOUND."""
    worker = FakeWorker(ready=False)
    async with service(worker) as running:
        health = health_pb2_grpc.HealthStub(running.channel)
        statuses = health_pb2.HealthCheckResponse
        names = ("", "impasto.v1.StyleTransferService")
        for name in names:
            found = (await health.Check(health_pb2.HealthCheckRequest(service=name))).status
            assert found == statuses.NOT_SERVING
        worker.ready = True
        worker.start(worker._on_report, worker._on_exit)
        await asyncio.sleep(0.3)
        for name in names:
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == statuses.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
async def test_reflection_describes_the_services(service: Any, version: str) -> None:
    """So that tools that know either version work without the .proto; the service describes itself too."""
    name = f"grpc.reflection.{version}.ServerReflection"
    async with service() as running:
        ask = running.channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        symbols = ("impasto.v1.StyleTransferService", "grpc.health.v1.Health", name)
        requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
        answers = ask(iter([reflection_pb2.ServerReflectionRequest(list_services=""), *requests]))
        names = {item.name for item in (await answers.read()).list_services_response.service}
        assert set(symbols) <= names
        for symbol in symbols:
            files = [
                FileDescriptorProto.FromString(data)
                for data in (await answers.read()).file_descriptor_response.file_descriptor_proto
            ]
            assert any(f"{file.package}.{item.name}" == symbol for file in files for item in file.service), symbol
            methods = [method for file in files for item in file.service for method in item.method]
            types = {f".{file.package}.{item.name}" for file in files for item in file.message_type}
            assert {method.input_type for method in methods} <= types
        answers.cancel()


async def test_nothing_is_left_behind_by_clients_that_vanish(service: Any, spec: Any) -> None:
    """A storm of watchers and callers that leave: tasks and jobs go back to where they were."""
    async with service(FakeWorker(hang=True)) as running:
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job
        await asyncio.sleep(0.3)
        before = len(asyncio.all_tasks())
        watching = [running.stub.Progress(pb.ProgressRequest(job_id=job.job_id)) for _ in range(40)]
        calls = [running.stub.Stylize(pb.StylizeRequest(spec=spec(), request_id=f"r{n}")) for n in range(10)]
        starting = [asyncio.ensure_future(call) for call in calls]
        await asyncio.gather(*(call.read() for call in watching), *(job_of(running, f"r{n}") for n in range(10)))
        for call in (*watching, *calls):
            call.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        await asyncio.sleep(0.4)
        assert len(asyncio.all_tasks()) <= before + 1
        info = await running.stub.GetServerInfo(pb.GetServerInfoRequest())
        assert (info.queue.running, info.queue.queued) == (1, 0)
