"""Fuzz the service with arbitrary messages and the decoder with arbitrary files.

Messages are valid ones with some fields replaced by extreme values, or bytes that are not a message. Pictures are valid files
with some bytes changed, removed or duplicated. Invariants: no INTERNAL and no UNKNOWN, every rejection has error details, and
no leak of tasks, open files or memory. `make soak` runs 100,000 inputs, the tests 2000.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import io
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

from impasto.v1 import style_transfer_pb2 as pb
from impasto_server.app import serving
from impasto_server.config import ServerConfig
from impasto_server.pictures.images import ImageError, open_image
from tests.unit.server.fakes import FakeWorker

SERVICE = pb.DESCRIPTOR.services_by_name["StyleTransferService"]
FORBIDDEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DATA_LOSS}
INTEGERS = (0, 1, -1, 2, 16, 100, 255, 4096, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, 1e15, math.inf, -math.inf, math.nan)
TEXTS = (
    "",
    "default",
    "gatys",
    "relu1_1",
    "relu9_9",
    "alexnet:random-3",
    "vgg16",
    "\0",
    "🎨" * 50,
    "a" * 5000,
    "../../etc/passwd",
    "%s%n",
)
MAX_PIXELS = 1_000_000


def pictures() -> list[bytes]:
    """Return small files in each format and in unusual modes."""
    found = []
    base = Image.effect_noise((24, 18), 90)
    for name, mode, options in (
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "L", {}),
        ("PNG", "1", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"quality": 40}),
    ):
        out = io.BytesIO()
        base.convert(mode).save(out, name, **options)
        found.append(out.getvalue())
    return found


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return a file with some bytes changed, removed, duplicated or overwritten with extreme values."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 16, 200))
        kind = rng.randrange(5)
        if kind == 0:
            changed[place : place + length] = rng.randbytes(length)
        elif kind == 1:
            del changed[place : place + length]
        elif kind == 2:
            changed[place:place] = changed[max(0, place - length) : place]
        elif kind == 3:
            changed[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"))
        elif changed:
            changed[min(place, len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


@dataclass
class Fuzzer:
    """Generates inputs from a seed."""

    rng: random.Random
    files: list[bytes] = field(default_factory=pictures)

    def file(self) -> bytes:
        """Return a picture, intact or damaged, or other bytes."""
        data = self.rng.choice(self.files)
        return self.rng.choice((data, data, damaged(self.rng, data), b"", self.rng.randbytes(50)))

    def spec(self) -> pb.JobSpec:
        """Return a valid job."""
        rng = self.rng
        spec = pb.JobSpec(
            content=pb.Image(data=rng.choice(self.files)), parameters=pb.Parameters(size_px=rng.choice((16, 32, 48)), steps=2)
        )
        for _ in range(rng.choice((0, 1, 1, 2))):
            spec.styles.add(image=pb.Image(data=rng.choice(self.files)))
        return spec

    def message(self, kind: Any) -> Message:
        """Return a request of the given type with some fields replaced."""
        request: Message = kind()
        if "spec" in kind.DESCRIPTOR.fields_by_name:
            request.spec.CopyFrom(self.spec())  # type: ignore[attr-defined]
        if kind is pb.InspectFeaturesRequest:
            request = pb.InspectFeaturesRequest(image=pb.Image(data=self.rng.choice(self.files)), layer="conv1_1")
        for _ in range(self.rng.choice((0, 1, 1, 2, 5)) if kind.DESCRIPTOR.fields else 0):
            self._change(request)
        return request

    def _change(self, message: Message) -> None:
        item = self.rng.choice(message.DESCRIPTOR.fields)
        if item.message_type is not None and self.rng.random() < 0.8:
            inside = getattr(message, item.name)
            if item.message_type.GetOptions().map_entry:
                inside[self.rng.choice(("a", "", "x" * 70, "\n"))] = self.rng.choice(("", "b", "y" * 200))
                return
            if item.is_repeated:
                inside = inside.add() if not inside or self.rng.random() < 0.3 else self.rng.choice(list(inside))
            if inside.DESCRIPTOR.fields:
                inside.SetInParent()
                self._change(inside)
            return
        if self.rng.random() < 0.2:
            message.ClearField(item.name)
            return
        if item.message_type is None:
            value = self._value(item)
            if item.is_repeated:
                getattr(message, item.name).append(value)
            else:
                setattr(message, item.name, value)

    def _value(self, item: FieldDescriptor) -> Any:
        rng = self.rng
        if item.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self.file() if item.type == FieldDescriptor.TYPE_BYTES else rng.choice(TEXTS)
        if item.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        if item.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return rng.choice(FLOATS)
        if item.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice((0, 1, 2, 3, 7, 99, -1, 2**31 - 1))
        small = item.cpp_type == FieldDescriptor.CPPTYPE_INT32
        return rng.choice([value for value in INTEGERS if not small or -(2**31) <= value < 2**31])


@dataclass
class Findings:
    """The results of a run."""

    codes: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)

    def note(self, name: str, error: grpc.aio.AioRpcError | None) -> None:
        """Record how a call ended."""
        self.codes["OK" if error is None else error.code().name] += 1
        if error is None:
            return
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        info = error_details_pb2.ErrorInfo()
        packed = status_pb2.Status.FromString(details).details if isinstance(details, bytes) else ()
        explained = any(detail.Unpack(info) for detail in packed) and info.domain == "impasto"
        if error.code() in FORBIDDEN or not explained:
            self.wrong.append(f"{name}: {error.code().name} {error.details()}")


def decode(rng: random.Random, files: list[bytes], count: int, findings: Findings) -> None:
    """Open damaged pictures: the result must be a picture or an ImageError."""
    for _ in range(count):
        data = damaged(rng, rng.choice(files))
        try:
            picture = open_image(data, MAX_PIXELS)
            assert picture.mode == "RGB"
            findings.codes["picture opened"] += 1
        except ImageError:
            findings.codes["picture rejected"] += 1
        except Exception as error:
            findings.wrong.append(f"decoder: {type(error).__name__} {error}")


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def open_files() -> int:
    """Return the number of open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def call(stub: grpc.aio.Channel, name: str, payload: bytes, findings: Findings) -> bytes:
    """Make one call with raw bytes, read at most a few responses, and record how it ended."""
    method = SERVICE.methods_by_name[name]
    path = f"/{SERVICE.full_name}/{name}"
    answer = b""
    try:
        if method.client_streaming:
            answer = await stub.stream_unary(path)(iter([payload]), timeout=20)
        elif method.server_streaming:
            stream = stub.unary_stream(path)(payload, timeout=20)
            for _ in range(3):
                if await stream.read() is grpc.aio.EOF:
                    break
            stream.cancel()
        else:
            answer = await stub.unary_unary(path)(payload, timeout=20)
        findings.note(name, None)
    except grpc.aio.AioRpcError as error:
        findings.note(name, error)
    return answer


async def fuzz(inputs: int, seed: int) -> Findings:
    """Run the given number of inputs, two fifths of them against the decoder, and measure leaks."""
    findings = Findings()
    fuzzer = Fuzzer(random.Random(seed))
    kinds = {method.name: getattr(pb, method.input_type.name) for method in SERVICE.methods}
    names = [*kinds, "SubmitJob", "SubmitJob", "SubmitJob", "SubmitJob", "InspectFeatures"]
    config = ServerConfig(
        listen="127.0.0.1:0", data_dir=":memory:", grace_s=0.1, max_queued_jobs=100_000, max_image_pixels=MAX_PIXELS
    )
    worker = FakeWorker(step_s=0.0)
    async with serving(config, [worker]) as running:
        await running.jobs.pool.ready.wait()
        async with grpc.aio.insecure_channel(running.address) as channel:
            before: dict[str, float] = {}
            warm = max(50, inputs // 5)
            for number in range(inputs):
                if number % 100 == 0:  # a fake worker records every message
                    worker.forget()
                if number == warm:
                    before = await _settled()
                if number and number % 10_000 == 0:
                    print(f"{number} inputs, {resident_mb():.0f} MB", flush=True)
                if number % 5 < 2:
                    await asyncio.to_thread(decode, fuzzer.rng, fuzzer.files, 1, findings)
                    continue
                name = fuzzer.rng.choice(names)
                payload = fuzzer.message(kinds[name]).SerializeToString()
                if fuzzer.rng.random() < 0.15:
                    payload = damaged(fuzzer.rng, payload or b"\0")
                answer = await call(channel, name, payload, findings)
                if name == "SubmitJob" and answer:
                    job_id = pb.SubmitJobResponse.FromString(answer).job.job_id
                    if job_id:
                        await call(channel, "DeleteJob", pb.DeleteJobRequest(job_id=job_id).SerializeToString(), findings)
            after = await _settled()
            findings.figures = {name: (before[name], after[name]) for name in before}
    return findings


async def _settled() -> dict[str, float]:
    """Return the tasks, open files and memory after everything that ended has been released."""
    await asyncio.sleep(0.5)
    gc.collect()
    return {"tasks": len(asyncio.all_tasks()), "open files": open_files(), "resident MB": resident_mb()}


def leaks(findings: Findings, allowed_mb: float) -> Iterator[str]:
    """Yield the leaks found."""
    for name, (before, after) in findings.figures.items():
        allowed = allowed_mb if name == "resident MB" else 3
        if after > before + allowed:
            yield f"{name}: {before:.0f} before, {after:.0f} after"


def main() -> int:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    findings = asyncio.run(fuzz(arguments.inputs, arguments.seed))
    wrong = [*findings.wrong, *leaks(findings, 40)]
    print(f"{arguments.inputs} inputs in {time.monotonic() - began:.0f} s: {dict(findings.codes)}")
    print({name: f"{before:.0f} -> {after:.0f}" for name, (before, after) in findings.figures.items()})
    print("\n".join(wrong[:50]) or "no violations")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
