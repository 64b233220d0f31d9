"""What operators rely on: who may see what, quotas, estimates, metrics of every kind of call, TLS, traces."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry, generate_latest

import impasto
from impasto.v1 import style_transfer_pb2 as pb
from impasto_server import app
from impasto_server.auth.tokens import new_token
from impasto_server.observability import http as operations
from impasto_server.observability import tracing
from impasto_server.observability.metrics import Machine, Metrics
from impasto_server.workers.memory import MemoryModel
from impasto_server.workers.messages import Ready
from tests.integration.contract.test_service import fails
from tests.integration.contract.test_storms import settles
from tests.unit.server.fakes import NETWORK, FakeWorker

Png = Callable[..., bytes]
SERVICE = "impasto.v1.StyleTransferService"
PIXELS = 48 * 40
"""Of the canvas of a job that these tests submit."""


def as_caller(token: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {token}"),)}


@pytest.fixture
def people(tmp_path: Path) -> dict[str, str]:
    """Return tokens of ann, bob and an admin, whose hashes stand in a file."""
    made = {name: new_token(name, admin=name == "root") for name in ("ann", "bob", "root")}
    path = tmp_path / "tokens"
    path.write_text("\n".join(line for _, line in made.values()))
    return {"file": str(path), **{name: token for name, (token, _) in made.items()}}


async def test_jobs_are_visible_to_their_owner_and_admins_only(service: Any, spec: Any, people: dict[str, str]) -> None:
    """For everybody else they are not there, by any call and under the same request id; health needs no token."""
    async with service(tokens=people["file"]) as running:
        stub, ann, bob, root = running.stub, *(as_caller(people[name]) for name in ("ann", "bob", "root"))
        code, info, _ = await fails(stub.ListJobs(pb.ListJobsRequest()))
        assert (code, info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
        _, info, _ = await fails(stub.ListJobs(pb.ListJobsRequest(), **as_caller("wrong")))
        assert info.reason == "TOKEN_UNKNOWN"
        health = health_pb2_grpc.HealthStub(running.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        request = pb.SubmitJobRequest(spec=spec(), request_id="same")
        job = (await stub.SubmitJob(request, **ann)).job
        assert job.owner == "ann"
        own = (await stub.SubmitJob(request, **bob)).job
        assert own.job_id != job.job_id
        job_id = job.job_id
        calls = (
            stub.GetJob(pb.GetJobRequest(job_id=job_id), **bob),
            stub.CancelJob(pb.CancelJobRequest(job_id=job_id), **bob),
            stub.PauseJob(pb.PauseJobRequest(job_id=job_id), **bob),
            stub.ResumeJob(pb.ResumeJobRequest(job_id=job_id), **bob),
            stub.DeleteJob(pb.DeleteJobRequest(job_id=job_id), **bob),
            stub.GetResult(pb.GetResultRequest(job_id=job_id), **bob),
            stub.Progress(pb.ProgressRequest(job_id=job_id), **bob).read(),
        )
        for call in calls:
            code, info, _ = await fails(call)
            assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        for caller, wanted in ((ann, {job_id}), (bob, {own.job_id}), (root, {job_id, own.job_id})):
            listed = (await stub.ListJobs(pb.ListJobsRequest(), **caller)).jobs
            assert {item.job_id for item in listed} == wanted
        assert (await stub.GetJob(pb.GetJobRequest(job_id=job_id), **root)).job.job_id == job_id


async def test_uploaded_files_are_their_owners(service: Any, spec: Any, png: Png, people: dict[str, str]) -> None:
    """Who knows a file's hash and not more has nothing."""
    data = png(seed=3)
    image_id = hashlib.sha256(data).hexdigest()
    start = pb.UploadImageRequest(start=pb.UploadStart(sha256=image_id, size_bytes=len(data)))
    async with service(tokens=people["file"]) as running:
        ann, bob = as_caller(people["ann"]), as_caller(people["bob"])
        await running.stub.UploadImage(iter([start, pb.UploadImageRequest(chunk=data)]), **ann)
        call = running.stub.DownloadImage(pb.DownloadImageRequest(image_id=image_id), **bob)
        _, info, _ = await fails(call.read())
        assert info.reason == "IMAGE_NOT_FOUND"
        made = spec()
        made.content.image_id = image_id
        _, _, violations = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=made), **bob))
        assert list(violations) == ["content.image_id"]
        assert (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made), **ann)).job.job_id


async def test_a_client_with_its_quota_used_is_told_and_others_are_not_held_up(
    service: Any, spec: Any, people: dict[str, str]
) -> None:
    """RESOURCE_EXHAUSTED with figures; a job that ends makes room."""
    async with service(FakeWorker(hang=True), tokens=people["file"], max_client_jobs=1) as running:
        ann, bob = as_caller(people["ann"]), as_caller(people["bob"])
        first = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()), **ann)).job
        code, info, _ = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()), **ann))
        assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        assert dict(info.metadata) == {"quota": "jobs", "limit": "1", "used": "1"}
        await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()), **bob)
        await running.stub.CancelJob(pb.CancelJobRequest(job_id=first.job_id), **ann)
        await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()), **ann)
        info = await running.stub.GetServerInfo(pb.GetServerInfoRequest(), **ann)
        assert info.limits.max_client_jobs == 1


async def test_too_much_waiting_work_is_refused(service: Any, spec: Any) -> None:
    """By the estimated time of its steps, from what the worker's start measured."""
    worker = FakeWorker(step_s=0.05, seconds_per_pixel=0.05 / PIXELS)
    async with service(worker, max_queued_work_s=0.2, max_running_jobs=1) as running:
        first = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec(100)))).job
        while not (await running.stub.GetJob(pb.GetJobRequest(job_id=first.job_id))).job.step > 3:
            await asyncio.sleep(0.02)
        await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec(100)))
        code, info, _ = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec(1))))
        assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert info.metadata["limit"] == "0.2 s"


async def test_the_acknowledgement_says_when_a_job_is_likely_to_start_and_end(service: Any, spec: Any) -> None:
    """From the steps seen so far and the work ahead; validate_only says the same and hands nothing in."""
    async with service(FakeWorker(step_s=0.02, seconds_per_pixel=0.02 / PIXELS), max_running_jobs=1) as running:
        stub = running.stub
        first = (await stub.SubmitJob(pb.SubmitJobRequest(spec=spec(200)))).job
        while not (await stub.GetJob(pb.GetJobRequest(job_id=first.job_id))).job.step > 5:
            await asyncio.sleep(0.02)
        asked = (await stub.SubmitJob(pb.SubmitJobRequest(spec=spec(100), validate_only=True))).job
        assert not asked.job_id
        assert len((await stub.ListJobs(pb.ListJobsRequest())).jobs) == 1
        job = (await stub.SubmitJob(pb.SubmitJobRequest(spec=spec(100)))).job
        for found in (asked, job):
            start = found.estimated_start_time.ToDatetime() - found.create_time.ToDatetime()
            end = found.estimated_end_time.ToDatetime() - found.create_time.ToDatetime()
            assert 1 < start.total_seconds() < 8
            assert 1 < (end - start).total_seconds() < 6
        broken = spec(0)
        code, _, violations = await fails(stub.SubmitJob(pb.SubmitJobRequest(spec=broken, validate_only=True)))
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["parameters.steps"])


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels or None)
    assert found is not None, f"{name} {labels} is not there"
    return found


async def test_calls_of_every_kind_are_counted_to_their_end(service: Any, spec: Any, png: Png) -> None:
    """Unary, both kinds of streams; refused and cancelled ones by their code; all there with zeros before the first call."""
    async with service(FakeWorker(step_s=0.02)) as running:
        metrics, stub = running.running.metrics, running.stub

        def count(name: str, method: str, kind: str = "unary", **more: str) -> float:
            return value(metrics, name, grpc_type=kind, grpc_service=SERVICE, grpc_method=method, **more)

        assert count("grpc_server_handled_total", "Progress", "server_stream", grpc_code="OK") == 0
        assert count("grpc_server_handled_total", "GetJob", grpc_code="NotFound") == 0
        await fails(stub.GetJob(pb.GetJobRequest(job_id="nothing")))
        assert await settles(lambda: count("grpc_server_handled_total", "GetJob", grpc_code="NotFound") == 1)
        assert count("grpc_server_msg_sent_total", "GetJob") == 0
        job = (await stub.SubmitJob(pb.SubmitJobRequest(spec=spec(3)))).job
        events = [event async for event in stub.Progress(pb.ProgressRequest(job_id=job.job_id))]
        assert await settles(lambda: count("grpc_server_msg_sent_total", "Progress", "server_stream") == len(events))
        assert await settles(lambda: count("grpc_server_handled_total", "Progress", "server_stream", grpc_code="OK") == 1)
        assert count("grpc_server_handling_seconds_count", "Progress", "server_stream") == 1
        assert count("grpc_server_handling_seconds_sum", "Progress", "server_stream") > 0.02
        data = png()
        start = pb.UploadStart(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        parts = [pb.UploadImageRequest(start=start), pb.UploadImageRequest(chunk=data)]
        await stub.UploadImage(iter(parts))
        assert count("grpc_server_msg_received_total", "UploadImage", "client_stream") == 2
        slow = (await stub.SubmitJob(pb.SubmitJobRequest(spec=spec(1000)))).job
        call = stub.Progress(pb.ProgressRequest(job_id=slow.job_id))
        await call.read()
        assert value(metrics, "impasto_progress_streams") == 1
        call.cancel()
        for _ in range(100):
            await asyncio.sleep(0.02)
            if count("grpc_server_handled_total", "Progress", "server_stream", grpc_code="Canceled"):
                break
        assert count("grpc_server_handled_total", "Progress", "server_stream", grpc_code="Canceled") == 1
        assert value(metrics, "impasto_progress_streams") == 0
        started = count("grpc_server_started_total", "Progress", "server_stream")
        assert started == 2


async def test_jobs_are_counted_through_their_life(service: Any, spec: Any) -> None:
    """Accepted, refused by reason, steps, ends by reason, times; queue and running as they stand."""
    worker = FakeWorker(step_s=0.01)
    async with service(worker, max_running_jobs=1) as running:
        metrics, stub = running.running.metrics, running.stub
        await stub.Stylize(pb.StylizeRequest(spec=spec(5)))
        await fails(stub.SubmitJob(pb.SubmitJobRequest(spec=spec(0))))
        assert value(metrics, "impasto_jobs_accepted_total") == 1
        assert value(metrics, "impasto_jobs_rejected_total", reason="INVALID_FIELD") == 1
        assert value(metrics, "impasto_jobs_rejected_total", reason="QUEUE_FULL") == 0
        assert value(metrics, "impasto_evaluations_total", device="cpu") == 5
        assert value(metrics, "impasto_step_seconds_count", device="cpu") == 5
        assert value(metrics, "impasto_jobs_ended_total", state="succeeded", stop_reason="steps") == 1
        for name in ("queue", "time_to_first_step", "optimize", "encode", "job"):
            assert value(metrics, f"impasto_{name}_seconds_count") == 1
        assert value(metrics, "impasto_final_loss_count") == 1
        worker.hang = True
        jobs = [(await stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job for _ in range(3)]
        running.running.jobs.gauges.measure()
        assert value(metrics, "impasto_queue_depth") == 2
        assert value(metrics, "impasto_jobs_running", device="cpu") == 1
        await asyncio.sleep(0.1)
        running.running.jobs.gauges.measure()
        assert value(metrics, "impasto_queue_age_seconds") >= 0.1
        assert value(metrics, "impasto_running_without_step_seconds") >= 0.1
        await stub.CancelJob(pb.CancelJobRequest(job_id=jobs[0].job_id))
        assert value(metrics, "impasto_jobs_ended_total", state="cancelled", stop_reason="cancelled") == 1
        worker.die()
        assert value(metrics, "impasto_worker_restarts_total", device="cpu") == 1


async def test_jobs_gone_on_with_are_counted(service: Any, spec: Any) -> None:
    """One that made room for another, and came back to its steps."""
    async with service(FakeWorker(step_s=0.01), max_running_jobs=1) as running:
        metrics, stub = running.running.metrics, running.stub
        low = spec(30)
        low.priority = -10
        first = (await stub.SubmitJob(pb.SubmitJobRequest(spec=low))).job
        async for event in stub.Progress(pb.ProgressRequest(job_id=first.job_id)):
            if event.HasField("step"):
                break
        await stub.Stylize(pb.StylizeRequest(spec=spec(3)))
        async for event in stub.Progress(pb.ProgressRequest(job_id=first.job_id)):
            last = event
        assert last.result.job.state == pb.JOB_STATE_SUCCEEDED
        assert value(metrics, "impasto_preemptions_total") == 1
        assert value(metrics, "impasto_resumes_total") == 1


async def test_asking_whether_a_job_would_be_taken_is_no_rejection(service: Any, spec: Any) -> None:
    """However often somebody asks."""
    async with service() as running:
        await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec(0), validate_only=True)))
        assert value(running.running.metrics, "impasto_jobs_rejected_total", reason="INVALID_FIELD") == 0


async def test_metrics_are_served_on_an_address_of_their_own(service: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In Prometheus's text; without a GPU its figures say so; the address is free again afterwards."""
    with caplog.at_level("INFO"):
        async with service(metrics="127.0.0.1:0"):
            url = next(part for part in caplog.text.split() if part.startswith("http://")).rstrip(",;.")
            text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=60).read())).decode()
    assert "# TYPE grpc_server_started_total counter" in text
    assert "impasto_gpu_metrics_up 0.0" in text
    assert "process_open_fds" in text
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=60)


async def test_probes_are_answered_over_http(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TLS or a token: not ready before a worker is, alive as long as the event loop turns, nothing else there."""

    def ask(port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    made: list[operations.Operations] = []

    class Kept(operations.Operations):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(app, "Operations", Kept)
    worker = FakeWorker(ready=False)
    async with service(worker, metrics="127.0.0.1:0"):
        port = made[0].port

        async def status(path: str) -> int:
            return (await asyncio.to_thread(ask, port, path))[0]

        assert (await status("/readyz"), await status("/healthz"), await status("/else")) == (503, 200, 404)
        worker.report(Ready("a fake", NETWORK, "float32", 1, MemoryModel(), None))
        for _ in range(50):
            await asyncio.sleep(0.02)
            if await status("/readyz") == 200:
                break
        assert await asyncio.to_thread(ask, port, "/readyz") == (200, "serving\n")
        monkeypatch.setattr(operations, "STUCK_S", 0.0)
        assert (await status("/readyz"), await status("/healthz")) == (503, 503)


def test_the_metrics_port_answers_head_as_get_without_the_body() -> None:
    """The status, the headers and the length, and nothing after them: probes may ask so."""
    served = operations.Operations("127.0.0.1", 0, CollectorRegistry(), operations.Pulse())
    try:
        for path, code in (("/healthz", b"200"), ("/readyz", b"503"), ("/metrics", b"200"), ("/else", b"404")):
            said = {}
            for method in ("GET", "HEAD"):
                with socket.create_connection(("127.0.0.1", served.port), 5) as line:
                    line.sendall(f"{method} {path} HTTP/1.0\r\n\r\n".encode())
                    said[method] = b"".join(iter(lambda: line.recv(1 << 16), b"")).partition(b"\r\n\r\n")
            head, _, body = said["HEAD"]
            assert (head.split()[1], body) == (code, b"")
            assert f"Content-Length: {len(said['GET'][2])}".encode() in head
    finally:
        served.close()


def test_a_gpus_figures_are_read_and_one_that_fails_is_left_out() -> None:
    """From NVML as it is; a model without a figure has the others; a driver that goes away is told by a zero."""

    class Nvml:
        NVMLError = RuntimeError
        NVML_TEMPERATURE_GPU = NVML_CLOCK_SM = NVML_MEMORY_ERROR_TYPE_UNCORRECTED = NVML_VOLATILE_ECC = 0
        nvmlClocksThrottleReasonGpuIdle = 1
        gone = False

        def nvmlDeviceGetCount(self) -> int:
            if self.gone:
                raise RuntimeError("driver")
            return 1

        def __getattr__(self, name: str) -> Any:
            class Many:
                gpu, used, total = 50, 10, 20

            def read(*arguments: object) -> Any:
                if name == "nvmlDeviceGetPowerUsage":
                    raise RuntimeError("not on this model")
                if name == "nvmlDeviceGetUUID":
                    return "GPU-1"
                return Many() if name.endswith(("Rates", "MemoryInfo")) else 5

            return read

    registry, machine = CollectorRegistry(), Machine(lambda: [("cpu", 0)], lambda: {"GPU-0": "cuda:0", "GPU-1": "cuda:1"})
    machine._nvml = Nvml()
    registry.register(machine)
    text = generate_latest(registry).decode()
    assert "impasto_gpu_metrics_up 1.0" in text
    assert 'impasto_gpu_utilization_ratio{gpu="0"} 0.5' in text
    assert 'impasto_gpu_info{device="cuda:1",gpu="0",uuid="GPU-1"} 1.0' in text, "NVML and CUDA number them differently"
    assert 'impasto_gpu_throttled{gpu="0"} 4.0' in text
    assert 'impasto_gpu_power_watts{gpu="0"}' not in text
    machine._nvml.gone = True
    assert "impasto_gpu_metrics_up 0.0" in generate_latest(registry).decode()


@pytest.mark.parametrize(("address", "text"), [("203.0.113.5:0", "Cannot assign"), ("no.such.invalid:50051", "ame")])
async def test_an_address_that_cannot_be_had_says_why(service: Any, address: str, text: str) -> None:
    """Not this machine's, or no name at all; one that is taken is told elsewhere."""
    with pytest.raises(app.StartError, match=f"listen: cannot listen on {address}: .*({text})"):
        async with service(listen=address):
            pytest.fail("it serves")


def test_the_sync_client_sends_its_token(people: dict[str, str], png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, or from the environment; the wrong one is an exception of its own. With the real server's command line."""
    from tests.conftest import ServerProcess

    server = ServerProcess("--tokens", people["file"], "--log-format", "json")
    try:
        with impasto.Client(server.address, credentials=impasto.Credentials(token=people["ann"])) as client:
            result = client.stylize(png(), png(seed=1), size_px=48, steps=2)
            assert result.job.owner == "ann"
        monkeypatch.setenv("IMPASTO_TOKEN", people["root"])
        with impasto.Client(server.address) as client:
            assert [job.owner for job in client.jobs()] == ["ann"]
        with (
            impasto.Client(server.address, credentials=impasto.Credentials(token="wrong")) as client,
            pytest.raises(impasto.Unauthenticated) as caught,
        ):
            list(client.jobs())
        assert caught.value.reason == "TOKEN_UNKNOWN"
    finally:
        assert server.stop() == 0
    log = "".join(server.log)
    assert all(json.loads(line) for line in server.log)
    assert '"message": "impasto is serving on ' in log
    assert '"owner": "ann"' in log
    assert '"reason": "TOKEN_UNKNOWN"' in log
    assert not any(people[name] in log for name in ("ann", "root"))


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


async def test_calls_and_jobs_are_traced_within_the_callers_trace(
    service: Any, spec: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A span for each call, streams too; a job's spans lie below the call that handed it in, and add up to its life."""
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import StatusCode

    exporter = InMemorySpanExporter()
    monkeypatch.setattr(app, "tracing_to", lambda _: tracing.OpenTelemetry(exporter, batched=False))
    async with service(FakeWorker(step_s=0.02), data_dir=str(tmp_path / "data")) as running:
        stub, metadata = running.stub, (("traceparent", PARENT),)
        job = (await stub.SubmitJob(pb.SubmitJobRequest(spec=spec(3)), metadata=metadata)).job
        _ = [event async for event in stub.Progress(pb.ProgressRequest(job_id=job.job_id), metadata=metadata)]
        await fails(stub.GetJob(pb.GetJobRequest(job_id="nothing"), metadata=metadata))
        late = spec(1000)
        late.time_limit.FromMilliseconds(100)
        await fails(stub.Stylize(pb.StylizeRequest(spec=late), metadata=metadata))
    spans = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE_ID}
    calls = {span.name.rpartition("/")[2]: span for span in spans if "/" in span.name}
    assert {name: span.attributes["rpc.grpc.status_code"] for name, span in calls.items()} == {
        "SubmitJob": 0,
        "Progress": 0,
        "GetJob": 5,
        "Stylize": 4,
    }
    assert {name for name, span in calls.items() if span.status.status_code is StatusCode.ERROR} == {"Stylize"}
    done, failed = (span for span in spans if span.name == "job")
    assert done.parent.span_id == calls["SubmitJob"].context.span_id
    assert failed.parent.span_id == calls["Stylize"].context.span_id
    assert done.attributes["impasto.job_id"] == job.job_id
    assert (done.attributes["impasto.steps"], done.attributes["impasto.stop_reason"]) == (3, "steps")
    assert failed.status.status_code is StatusCode.ERROR
    parts = {span.name: span for span in spans if span.parent.span_id == done.context.span_id}
    assert list(parts) == ["queue", "optimize", "encode"]
    borders = [done.start_time, *(span.end_time for span in parts.values())]
    assert borders == [*(span.start_time for span in parts.values()), done.end_time]
    assert parts["optimize"].end_time - parts["optimize"].start_time > 0.04e9


async def test_traces_reach_a_collector(service: Any, spec: Any) -> None:
    """By OTLP over gRPC: all of them, the last when the server stops."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

    names: list[str] = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            for group in request.resource_spans:
                names.extend(span.name for scope in group.scope_spans for span in scope.spans)
            return trace_service_pb2.ExportTraceServiceResponse()

    collector = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    async with service(otlp_endpoint=f"127.0.0.1:{port}") as running:
        await running.stub.Stylize(pb.StylizeRequest(spec=spec(3)))
    collector.stop(None).wait()
    assert sorted(names) == ["encode", f"{SERVICE}/Stylize", "job", "optimize", "queue"]


def test_traces_without_their_libraries_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none are wanted by default."""
    assert isinstance(tracing.tracing_to(""), tracing.NoTracing)
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(tracing.TracingError, match=r"pip install '\.\[otel\]'"):
        tracing.tracing_to("localhost:4317")


async def test_failed_preconditions_say_what_is_missing(service: Any, spec: Any) -> None:
    """PreconditionFailure beside ErrorInfo."""
    async with service(FakeWorker(hang=True)) as running:
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()))).job
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.stub.GetResult(pb.GetResultRequest(job_id=job.job_id))
        status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
        assert isinstance(status, status_pb2.Status)
        failure = error_details_pb2.PreconditionFailure()
        assert any(detail.Unpack(failure) for detail in status.details)
        assert failure.violations[0].subject == job.job_id


async def test_errors_that_quote_long_texts_still_arrive(service: Any, spec: Any) -> None:
    """All of it travels as metadata, of which gRPC takes 16 KB: texts are cut, and many wrong fields become some."""
    async with service() as running:
        made = spec()
        for number in range(200):
            made.parameters.style_layers.layers.add(layer=f"{number}" + "ä" * 3000, weight=-1)
        made.parameters.network = "x" * 10_000
        code, info, violations = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=made)))
        assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert 1 < len(violations) < 20
        code, _, _ = await fails(running.stub.GetJob(pb.GetJobRequest(job_id="j" * 50_000)))
        assert code is grpc.StatusCode.NOT_FOUND
        code, _, violations = await fails(running.stub.GetJob(pb.GetJobRequest(job_id="j" * 100_000)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_health_can_be_watched(service: Any) -> None:
    """As gRPC's own clients and balancers do: the health service writes its answers itself."""
    async with service() as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        watching.cancel()
        labels = {"grpc_type": "server_stream", "grpc_service": "grpc.health.v1.Health", "grpc_method": "Watch"}
        assert await settles(lambda: value(running.running.metrics, "grpc_server_msg_sent_total", **labels) == 1)


async def test_so_many_questions_at_a_time(service: Any, png: Png) -> None:
    """The next one is told to come again; one whose caller leaves makes room."""
    from impasto_server.workers.pool import MAX_QUESTIONS

    async with service(FakeWorker(deaf=True)) as running:
        request = pb.InspectFeaturesRequest(image=pb.Image(data=png()), layer="conv1_1")
        asked = [asyncio.ensure_future(_inspect(running.stub, request)) for _ in range(MAX_QUESTIONS)]
        while len(running.worker.commands) < MAX_QUESTIONS:
            await asyncio.sleep(0.01)
        code, info, _ = await fails(running.stub.InspectFeatures(request))
        assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        running.worker.deaf = False
        for _ in range(50):
            try:
                assert (await running.stub.InspectFeatures(request)).responses
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
        else:
            raise AssertionError("no room was made")


async def _inspect(stub: Any, request: pb.InspectFeaturesRequest) -> Any:
    return await stub.InspectFeatures(request)


async def test_uploads_of_owners_who_stay_away_expire_and_count(tmp_path: Path) -> None:
    """The limit is for all together, and no owner may take more than three quarters of it."""
    from impasto_server.domain.errors import ServiceError
    from impasto_server.store.uploads import Uploads

    uploads = Uploads(tmp_path / "files", 0.2, 1000, 1500)
    with pytest.raises(ServiceError, match="no space"):
        Uploads(tmp_path / "small", 0.2, 1000, 1200).of("ann").begin("0" * 64, 1000, 0)
    data = bytes(1000)
    image_id = hashlib.sha256(data).hexdigest()
    ann, bob = uploads.of("ann"), uploads.of("bob")
    ann.begin(image_id, 1000, 0)
    ann.put(image_id, 0, data, 1000)
    assert ann.complete(image_id, 1000)
    with pytest.raises(ServiceError, match="no space"):
        bob.begin(image_id, 1000, 0)
    await asyncio.sleep(0.3)
    uploads.expire()
    assert bob.begin(image_id, 1000, 0) == 0
    with pytest.raises(KeyError):
        ann.find(image_id)


def test_credentials_take_what_is_left_out_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is given does not mean that TLS is not wanted; half a pair is refused."""
    monkeypatch.setenv("IMPASTO_TLS", "1")
    monkeypatch.setenv("IMPASTO_TOKEN", "other")
    found = impasto.Credentials(token="mine").completed()
    assert (found.token, found.tls) == ("mine", True)
    assert found.channel_credentials() is not None
    assert "mine" not in repr(found)
    with pytest.raises(impasto.InvalidRequest, match="given together"):
        impasto.Credentials(tls_cert="a.pem").channel_credentials()
