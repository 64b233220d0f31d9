"""Attack a real server as a single client could, and measure the effect on other clients. Each attack gets its own server.

Each attack once blocked the server for all clients, took gigabytes, or left it in an invalid state (for measurements before and
after see docs/lab/reliability.md). `make soak-attack` runs them all. Each also has a small test with its module's tests.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from impasto_server.auth.tokens import new_token
from tests.soak.crashes import free_port

SUBMIT = "/impasto.v1.StyleTransferService/SubmitJob"
SLOW_S = 0.25
"""Limit of the health latency, whatever a single client does."""
MIB = 1 << 20


def png(side: int, seed: int = 0) -> bytes:
    """Return a picture of noise."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def flat(side: int) -> bytes:
    """Return a large picture that compresses to a small file."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (200, 100, 50)).save(out, "PNG")
    return out.getvalue()


def spec(content: bytes = png(32), style: bytes = png(32, 1), **parameters: Any) -> pb.JobSpec:
    """Return a job, small unless the parameters say otherwise."""
    chosen = pb.Parameters(**{"size_px": 32, "steps": 3, "levels": 1, **parameters})
    return pb.JobSpec(content=pb.Image(data=content), styles=[pb.Style(image=pb.Image(data=style))], parameters=chosen)


def varint(number: int) -> bytes:
    """Return a number in protobuf's varint encoding."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


@dataclass
class Victim:
    """A server with its own folder, and a process that calls health continuously."""

    options: tuple[str, ...] = ()
    descriptors: int = 0
    process: subprocess.Popen[bytes] | None = None
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="impasto-attack-"))
        self.address, self.metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        made = {name: new_token(name) for name in ("ann", "bob")}
        self.tokens = {name: token for name, (token, _) in made.items()}
        (self.folder / "tokens").write_text("".join(f"{line}\n" for _, line in made.values()))

    def start(self) -> None:
        """Start the server and wait until it serves."""
        command = [sys.executable, "-c", "from impasto.cli import main; main()", "serve", "--listen", self.address]
        command += ["--device", "cpu", "--weights", "builtin", "--data-dir", str(self.folder / "data"), "--grace-s", "0"]
        command += ["--metrics", self.metrics, "--tokens", str(self.folder / "tokens"), *self.options]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        if self.descriptors:  # before it reads the limit
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
        until = time.monotonic() + 90
        while not self.healthy(2.0):
            assert time.monotonic() < until, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        command = [sys.executable, "-m", "tests.soak.attacks", "--ask", self.address]
        self._asking = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def stop(self) -> None:
        """Kill the server and its workers."""
        if self.process is not None:
            for worker in self.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            self.process.kill()
            self.process.wait()

    def healthy(self, timeout_s: float) -> bool:
        """Whether the server reports that it serves."""
        with self.channel() as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def channel(self) -> grpc.Channel:
        """Return a separate connection."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        return grpc.insecure_channel(self.address, options=[*options, ("grpc.max_send_message_length", -1)])

    def caller(self, name: str = "ann") -> Caller:
        """Return a caller with a token."""
        return Caller(self.channel(), self.tokens[name])

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        assert self.process is not None
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children = (task / "children").read_text().split()
                found += [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return found

    def mib(self, key: str = "VmRSS") -> float:
        """Return a memory figure of the server process in MiB: VmRSS, or VmHWM for the peak since :meth:`watermark`."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

    def watermark(self) -> float:
        """Reset the memory peak and return the current memory in MiB."""
        assert self.process is not None
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.mib()

    def slowest_s(self) -> float:
        """Return the longest health latency so far."""
        answer, _ = self._asking.communicate(timeout=60)
        return float(answer)


def ask(address: str) -> None:
    """Call health until stdin closes, and print the longest latency. Runs in a separate process so that nothing delays it."""
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    slowest = 0.0
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
        while not over.wait(0.05):
            began = time.monotonic()
            with contextlib.suppress(grpc.RpcError):
                stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
            slowest = max(slowest, time.monotonic() - began)
    print(slowest)


class Caller:
    """Calls methods with a token, and reports how they end.

    Args:
        channel: A channel to the server.
        token: The token to send.
    """

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self.stub: Any = pb_grpc.StyleTransferServiceStub(channel)
        self.metadata = (("authorization", f"Bearer {token}"),)

    def call(self, name: str, request: Any, timeout_s: float = 60.0) -> Any:
        """Return the response.

        Raises:
            grpc.RpcError: If the call fails.
        """
        return getattr(self.stub, name)(request, metadata=self.metadata, timeout=timeout_s)

    def ends(self, name: str, request: Any, timeout_s: float = 60.0) -> str:
        """Return the status code of a call."""
        try:
            self.call(name, request, timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
        return "OK"

    def submit(self, job: pb.JobSpec) -> str:
        """Submit a job and return its id."""
        return str(self.call("SubmitJob", pb.SubmitJobRequest(spec=job, request_id=str(uuid.uuid4()))).job.job_id)

    def job(self, job_id: str) -> pb.Job:
        """Return a job."""
        found: pb.Job = self.call("GetJob", pb.GetJobRequest(job_id=job_id)).job
        return found


Finding = tuple[str, float, float]
"""What was measured, its value, and its limit."""


def message_without_token(victim: Victim) -> Iterator[Finding]:
    """16 MB of empty styles, and a gzip of 512 MiB of zeros, from a caller without a token."""
    call = victim.channel().unary_unary(SUBMIT, request_serializer=lambda data: data)
    inner = b"\x12\x00" * 8_000_000
    before = victim.watermark()
    with contextlib.suppress(grpc.RpcError):
        call(b"\x0a" + varint(len(inner)) + inner, timeout=60)
    yield "memory over the message's size", (victim.mib("VmHWM") - before) / (len(inner) / MIB), 3
    before = victim.watermark()
    with contextlib.suppress(grpc.RpcError):
        zeros = b"\xfa\x7f" + varint(512 * MIB) + bytes(512 * MIB)
        call(zeros, timeout=60, compression=grpc.Compression.Gzip)
    yield "MiB for a gzip of 512 MiB", victim.mib("VmHWM") - before, 150


def health_watches(victim: Victim) -> Iterator[Finding]:
    """Forty Health.Watch streams with names of 10 MiB. Their memory must be released afterwards."""
    stub = health_pb2_grpc.HealthStub(victim.channel())
    before = victim.mib()
    streams = [stub.Watch(health_pb2.HealthCheckRequest(service=f"{number}" + "x" * (10 * MIB))) for number in range(40)]
    for stream in streams:
        next(stream)
    time.sleep(2)
    yield "MiB while they are open", victim.mib() - before, 100
    for stream in streams:
        stream.cancel()
    time.sleep(2)
    yield "MiB when they have ended", victim.mib() - before, 60


def long_lists(victim: Victim) -> Iterator[Finding]:
    """ListJobs with 4 M states; a schedule of 1 M entries; 100,000 wrong layers."""
    ann = victim.caller()
    before = victim.watermark()
    assert ann.ends("ListJobs", pb.ListJobsRequest(states=[pb.JOB_STATE_QUEUED] * 4_000_000)) == "INVALID_ARGUMENT"
    job = spec()
    job.parameters.schedule.extend([pb.SizeSteps(size_px=32, steps=1)] * 1_000_000)
    assert ann.ends("SubmitJob", pb.SubmitJobRequest(spec=job)) == "INVALID_ARGUMENT"
    job = spec()
    job.parameters.style_layers.layers.extend([pb.LayerWeight(layer="no", weight=-1)] * 100_000)
    assert ann.ends("SubmitJob", pb.SubmitJobRequest(spec=job)) == "INVALID_ARGUMENT"
    yield "MiB", victim.mib("VmHWM") - before, 150


def jpeg_scans(victim: Victim) -> Iterator[Finding]:
    """Eight callers send a progressive JPEG with very many scans and leave after a second; then another client's job."""
    out = io.BytesIO()
    Image.effect_noise((3000, 3000), 60).save(out, "JPEG", progressive=True, quality=30)
    data = out.getvalue()
    scan = data.rfind(b"\xff\xda")
    bomb = data[:scan] + (data[scan:-2] * 600)[: 8 * MIB] + b"\xff\xd9"
    ann, bob = victim.caller(), victim.caller("bob")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ann.ends("SubmitJob", pb.SubmitJobRequest(spec=spec(bomb)), 1.0), range(8)))
    began = time.monotonic()
    bob.submit(spec())
    yield "s until another client's job is accepted", time.monotonic() - began, 12


def many_pictures(victim: Victim) -> Iterator[Finding]:
    """One request with eight styles, their masks and regions, each a flat picture of 49 megapixels; 2 MB in all."""
    bomb = flat(7000)
    job = spec(bomb, bomb, size_px=512)
    for _ in range(7):
        job.styles.add(image=pb.Image(data=bomb))
    for style in job.styles:
        style.mask.data = bomb
        style.region.data = bomb
    before = victim.watermark()
    code = victim.caller().ends("SubmitJob", pb.SubmitJobRequest(spec=job, validate_only=True), 120)
    assert code in ("OK", "INVALID_ARGUMENT"), code
    yield "MiB in the server", victim.mib("VmHWM") - before, 300


def files_by_id(victim: Victim) -> Iterator[Finding]:
    """Sixty concurrent calls of 2 kB each that refer to a file of 60 MiB many times."""
    data = os.urandom(60 * MIB)
    digest = hashlib.sha256(data).hexdigest()
    ann = victim.caller()

    def pieces() -> Iterator[pb.UploadImageRequest]:
        yield pb.UploadImageRequest(start=pb.UploadStart(sha256=digest, size_bytes=len(data)))
        for at in range(0, len(data), 4 * MIB):
            yield pb.UploadImageRequest(chunk=data[at : at + 4 * MIB])

    ann.call("UploadImage", pieces())
    job = pb.JobSpec(content=pb.Image(image_id=digest), parameters=pb.Parameters(size_px=32))
    for _ in range(8):
        job.styles.add(image=pb.Image(image_id=digest), mask=pb.Image(image_id=digest))
    before = victim.watermark()
    with ThreadPoolExecutor(60) as pool:
        codes = set(pool.map(lambda _: ann.ends("SubmitJob", pb.SubmitJobRequest(spec=job)), range(60)))
    assert codes <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}, codes
    yield "MiB in the server", victim.mib("VmHWM") - before, 300
    before = victim.watermark()
    streams = [
        victim.caller().stub.DownloadImage(pb.DownloadImageRequest(image_id=digest), metadata=ann.metadata) for _ in range(20)
    ]
    firsts = [next(stream) for stream in streams]
    time.sleep(3)
    yield "MiB for 20 downloads that are not read", victim.mib("VmHWM") - before, 300
    assert len(firsts) == 20
    for stream in streams:
        stream.cancel()


def full_queue(victim: Victim) -> Iterator[Finding]:
    """A client fills the queue with jobs of 1024 px, most of them paused."""
    ann, bob = victim.caller(), victim.caller("bob")
    ann.submit(spec(size_px=64, steps=10_000))
    large = spec(flat(1024), flat(1024), size_px=1024)
    before = victim.watermark()
    accepted = 0
    for number in range(60):
        try:
            job_id = ann.submit(large)
        except grpc.RpcError as error:
            assert error.code().name == "RESOURCE_EXHAUSTED", error.code()  # type: ignore[attr-defined]
            break
        accepted += 1
        if number % 3:
            ann.ends("PauseJob", pb.PauseJobRequest(job_id=job_id))
    yield f"MiB for {accepted} queued jobs", victim.mib("VmHWM") - before, 400
    bob.submit(spec())


def hung_worker(victim: Victim) -> Iterator[Finding]:
    """A worker is stopped in the middle of a job."""
    ann = victim.caller()
    job_id = ann.submit(spec(size_px=64, steps=400))
    while ann.job(job_id).step < 5:
        time.sleep(0.05)
    (worker,) = victim.workers()
    os.kill(worker, signal.SIGSTOP)
    began = time.monotonic()
    while victim.workers() in ([worker], []) and time.monotonic() - began < 90:
        time.sleep(0.2)
    yield "s until another worker runs", time.monotonic() - began, 40
    until = time.monotonic() + 60
    while ann.job(job_id).state != pb.JOB_STATE_SUCCEEDED and time.monotonic() < until:
        time.sleep(0.2)
    assert ann.job(job_id).state == pb.JOB_STATE_SUCCEEDED


def races(victim: Victim) -> Iterator[Finding]:
    """Cancel and watch concurrently, pause and resume while a job is being committed; then another client's job."""
    ann, bob = victim.caller(), victim.caller("bob")
    ann.submit(spec(size_px=64, steps=10_000))

    def one(number: int) -> None:
        request_id = str(uuid.uuid4())
        submitting = ann.stub.SubmitJob.future(
            pb.SubmitJobRequest(spec=spec(), request_id=request_id), metadata=ann.metadata, timeout=60
        )
        for _ in range(number % 5):
            for job in ann.call("ListJobs", pb.ListJobsRequest(page_size=1)).jobs:
                ann.ends("PauseJob", pb.PauseJobRequest(job_id=job.job_id))
                ann.ends("ResumeJob", pb.ResumeJobRequest(job_id=job.job_id))
        job_id = submitting.result().job.job_id
        ann.ends("CancelJob", pb.CancelJobRequest(job_id=job_id))
        ends = list(ann.call("Progress", pb.ProgressRequest(job_id=job_id)))
        assert ends[-1].WhichOneof("event") in ("result", "snapshot")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(120)))
    assert victim.healthy(5)
    job_id = bob.submit(spec())
    yield "missing jobs", float(bob.job(job_id).job_id != job_id), 0


def questions(victim: Victim) -> Iterator[Finding]:
    """Four threads request features of always new networks while another client's job runs."""
    ann, bob = victim.caller(), victim.caller("bob")
    job_id = ann.submit(spec(size_px=64, steps=10_000, optimizer=pb.OPTIMIZER_ADAM))  # Adam never stalls

    def rate(seconds: float) -> float:
        first, began = ann.job(job_id).step, time.monotonic()
        time.sleep(seconds)
        return (ann.job(job_id).step - first) / (time.monotonic() - began)

    while ann.job(job_id).step < 5:
        time.sleep(0.05)
    alone, over = rate(5), threading.Event()

    def ask(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            image, network = pb.Image(data=png(64)), f"vgg19:random-{number * 1000 + count}"
            bob.ends("InspectFeatures", pb.InspectFeaturesRequest(image=image, layer="relu5_4", size_px=1024, network=network))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    beside = rate(45)  # a single request may take several seconds
    over.set()
    for thread in threads:
        thread.join()
    assert ann.job(job_id).state == pb.JOB_STATE_RUNNING
    yield "times slowdown of another client's job", alone / max(beside, 1e-3), 4


def silent_connections(victim: Victim) -> Iterator[Finding]:
    """Three hundred silent connections to the metrics address."""
    host, _, port = victim.metrics.rpartition(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(300)]
    time.sleep(1)
    assert victim.process is not None
    yield "open file descriptors of the server", float(len(os.listdir(f"/proc/{victim.process.pid}/fd"))), 120
    victim.caller().submit(spec())
    for each in sockets:
        each.close()


def silent_strangers(victim: Victim) -> Iterator[Finding]:
    """Four hundred silent connections to the gRPC address of a server that may open 256 files."""
    time.sleep(3)  # the process that asks for health is connected
    assert victim.process is not None
    host, _, port = victim.address.rpartition(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(400)]
    time.sleep(1)
    yield "open file descriptors of the server", float(len(os.listdir(f"/proc/{victim.process.pid}/fd"))), 200
    began = time.monotonic()
    while True:
        with contextlib.suppress(grpc.RpcError):
            victim.caller().submit(spec())
            break
        time.sleep(0.5)
    yield "s until a new client can submit a job", time.monotonic() - began, 30
    for each in sockets:
        each.close()


def learned(victim: Victim) -> Iterator[Finding]:
    """Jobs of 16 px train the server's time and memory estimates; then a job of 512 px."""
    ann = victim.caller()
    for _ in range(6):
        ann.call("Stylize", pb.StylizeRequest(spec=spec(png(16), size_px=16)))
    request = pb.SubmitJobRequest(spec=spec(png(64), png(64), size_px=512, steps=50), validate_only=True)
    job = ann.call("SubmitJob", request).job
    estimate = job.estimated_end_time.ToSeconds() - job.create_time.ToSeconds()
    yield "s estimated for 50 steps at 512 px", float(estimate), 400


ATTACKS: tuple[Callable[[Victim], Iterator[Finding]], ...] = (
    message_without_token,
    health_watches,
    long_lists,
    jpeg_scans,
    many_pictures,
    files_by_id,
    full_queue,
    hung_worker,
    races,
    questions,
    silent_connections,
    silent_strangers,
    learned,
)


def run(attack: Callable[[Victim], Iterator[Finding]]) -> list[Finding]:
    """Run an attack on its own server; return its findings and the longest health latency."""
    victim = Victim(descriptors=256 if attack is silent_strangers else 0)
    try:
        victim.start()
        findings = list(attack(victim))
        return [*findings, ("s for the slowest health response", victim.slowest_s(), SLOW_S)]
    finally:
        victim.stop()


def main() -> int:
    """Run all attacks, or those given by name, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="names of attacks to run; all by default")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        ask(arguments.ask)
        return 0
    names = arguments.names
    wrong = 0
    print("| attack | measured | at most | |\n|---|---|---|---|")
    for attack in ATTACKS:
        if names and attack.__name__ not in names:
            continue
        try:
            findings = run(attack)
        except Exception as error:  # run the remaining attacks
            wrong += 1
            print(f"| {attack.__name__} | {type(error).__name__}: {str(error)[:300]} | | **failed** |", flush=True)
            continue
        for text, value, most in findings:
            wrong += value > most
            print(f"| {attack.__name__} | {value:.3g} {text} | {most:g} | {'**failed**' if value > most else ''} |", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
