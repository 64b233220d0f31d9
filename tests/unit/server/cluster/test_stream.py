"""Messages, files and their order on a worker's stream."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from impasto.worker.v1 import worker_pb2 as pb
from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.optimizers import OPTIMIZERS
from impasto_engine.parameters import Parameters
from impasto_engine.results import Losses
from impasto_engine.samples import SampleState
from impasto_server.cluster import wire
from impasto_server.cluster.desk import Desk
from impasto_server.cluster.inbox import Inbox
from impasto_server.cluster.outbox import Outbox, pieces
from impasto_server.cluster.remote import RemoteWorker
from impasto_server.domain.job import JobSpec, JobWarning, NetworkDescription, OutputOptions, Source, StopReason, StylePicture
from impasto_server.domain.pictures import Plane, Raster
from impasto_server.store import codec
from impasto_server.workers import checkpoints
from impasto_server.workers.checkpoint_format import HASH_BYTES, MAGIC, is_whole
from impasto_server.workers.checkpoints import Checkpoint
from impasto_server.workers.memory import Line, MemoryModel
from impasto_server.workers.messages import (
    Alive,
    Cancel,
    CannotStart,
    Checkpointed,
    FilterResponse,
    Finish,
    Inspect,
    Inspected,
    JobFailed,
    JobParked,
    JobStarted,
    JobStepped,
    Park,
    PassMeasured,
    Ready,
    Start,
)
from impasto_server.workers.pairs import Ledger
from tests.unit.server.fakes import FakeWorker

NETWORK = NetworkDescription("vgg16", "builtin", "00", ARCHITECTURES["vgg16"].layer_names)
MESSAGES = [
    Alive(0.5, 7),
    Cancel("a"),
    Park("a"),
    Finish("a"),
    CannotStart("no weights"),
    Checkpointed("a", 9),
    Ready("a card", NETWORK, "bfloat16", 4, MemoryModel({"bfloat16": Line(2.0, 3.0)}), 10, ("vgg19:x",), 0.1),
    PassMeasured("tf32", 100, 5, 0.5),
    Inspected(3, (FilterResponse(1, b"png", 0.0, 1.0, 0.5, 0.1),), NETWORK),
    JobFailed("a", "ENGINE_ERROR", "why"),
    JobParked("a", 4),
    JobStarted("a", "float32", 3, "note", NETWORK, 1, 2, 8),
    JobStepped("a", 4, Losses(1.0, 2.0, 3.0), 0.5, 1.5, b"jpeg"),
    wire.JobFinished("a", StopReason.CONVERGED, 0.1, (JobWarning("R", "text"),)),
    wire.EncodingFailed("a", "why"),
    wire.StartJob("a", "{}", True, "tf32"),
    wire.InspectPicture(1, 2, 3, "00", "", "relu1_1", (1, 2), 5, "max"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_arrives_as_it_was_sent(message: object) -> None:
    assert wire.decode(wire.encode(message)) == message


def test_every_command_and_report_can_travel() -> None:
    """A new kind of message must be added to the wire; pictures travel as files."""
    from impasto_server.workers import messages

    kinds = {*messages.Command.__args__, *messages.Report.__args__, *messages.JobReport.__args__}
    assert {kind.__name__ for kind in kinds} - set(wire._KINDS) == {"Start", "Inspect", "JobPainted", "Together"}


@pytest.mark.parametrize(
    "message",
    [
        pb.Message(kind="Start", body=b"x"),
        pb.Message(kind="__import__", body=b""),
        pb.Message(kind="Cancel", body=b"\xff\xff"),
        pb.Message(kind="Cancel", body=wire._ENCODER.encode({"job_id": 7})),
        pb.Message(kind="JobStarted", body=wire._ENCODER.encode({"job_id": "a", "arithmetic": "float8"})),
    ],
)
def test_a_message_of_another_form_is_refused(message: pb.Message) -> None:
    """Unknown kinds, garbage, and values of the wrong type."""
    with pytest.raises(wire.WireError):
        wire.decode(message)


def whole_spec() -> JobSpec:
    raster = lambda value: Raster(4, 2, bytes([value]) * 24)  # noqa: E731
    plane = Plane(4, 2, bytes(8))
    style = StylePicture(raster(1), 0.5, "digest", plane, Plane(4, 2, bytes([255]) * 8))
    source = Source("content", "name.png", "00")
    parameters = Parameters(steps=7, style_layers={"relu1_1": 1.0}, schedule=((64, 3), (128, 4)))
    return JobSpec(
        4, 2, raster(2), (style,), parameters, OutputOptions("jpeg"), 3, 9.5, True, 60.0, plane, raster(3), (source,)
    )


async def collected(outbox: Outbox[Any], until: str) -> list[Any]:
    found = []
    async with contextlib.aclosing(outbox.messages()) as messages:
        async for message in messages:
            found.append(message)
            if message.WhichOneof("part") == until:
                return found
    return found


def remote(folder: Path) -> RemoteWorker:
    return RemoteWorker(pb.Hello(name="a", host="b", device="cpu", incarnation="c"), folder, lambda *_: None)


async def test_a_job_travels_with_its_pictures_once(tmp_path: Path) -> None:
    """The spec that arrives is the one that was sent; a second job with the same pictures sends none."""
    (tmp_path / "in").mkdir()
    (tmp_path / "pictures").mkdir()
    worker, inbox = remote(tmp_path), Inbox(tmp_path / "in")
    sent = whole_spec()
    for job_id in ("first", "second"):
        worker.send(Start(job_id, sent, str(tmp_path / job_id), "bfloat16"))
        found = await collected(worker.outbox, "command")
        for message in found[:-1]:
            path = await inbox.take(message.piece)
            assert path is not None
            path.replace(tmp_path / "pictures" / message.piece.name)
        assert len(found) == (len(codec.names(sent)) + 1 if job_id == "first" else 1)
        arrived = wire.start(wire.decode(found[-1].command), tmp_path / "pictures", tmp_path / "state")
        assert arrived.spec == codec.laid_down(sent, tmp_path / "pictures")
        assert (arrived.job_id, arrived.arithmetic) == (job_id, "bfloat16")
        assert all((tmp_path / "pictures" / name).exists() for name in codec.names(sent))


async def test_an_inspection_travels_with_its_picture(tmp_path: Path) -> None:
    worker = remote(tmp_path)
    command = Inspect(5, Raster(2, 1, b"abcdef"), "vgg16:builtin", "relu1_1", (3,), 5, "average")
    worker.send(command)
    found = await collected(worker.outbox, "command")
    assert found[0].piece.data == b"abcdef"
    arrived = wire.inspect(wire.decode(found[-1].command), tmp_path)
    assert arrived.picture.rgb == tmp_path / hashlib.sha256(b"abcdef").hexdigest()


async def test_a_command_does_not_overtake_the_start_of_its_job(tmp_path: Path) -> None:
    """But it overtakes the pictures of others."""
    worker = remote(tmp_path)
    worker.send(Start("a", whole_spec()))
    worker.send(Cancel("a"))
    worker.send(Park("b"))
    found = await collected(worker.outbox, "command")
    assert wire.decode(found[0].command) == Park("b")
    rest = await collected(worker.outbox, "command")
    assert isinstance(wire.decode(rest[-1].command), wire.StartJob)
    assert wire.decode((await collected(worker.outbox, "command"))[0].command) == Cancel("a")


async def test_a_checkpoint_travels_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    """The newest whole one is sent; none if there is none."""
    body = bytes(600_000)
    whole = MAGIC + hashlib.sha256(body).digest() + body
    assert len(whole) == len(MAGIC) + HASH_BYTES + len(body)
    (tmp_path / "job").write_bytes(whole[:-1])
    (tmp_path / "job.previous").write_bytes(whole)
    worker = remote(tmp_path)
    worker.send(Start("a", whole_spec(), str(tmp_path / "job")))
    found = await collected(worker.outbox, "command")
    data = b"".join(message.piece.data for message in found[:-1] if message.piece.kind == pb.FILE_KIND_CHECKPOINT)
    assert data == whole
    assert wire.decode(found[-1].command).resumes
    (tmp_path / "job.previous").write_bytes(b"")
    worker.send(Start("b", whole_spec(), str(tmp_path / "job")))
    assert not wire.decode((await collected(worker.outbox, "command"))[-1].command).resumes


async def test_a_checkpoint_with_pairs_travels_as_one_file(tmp_path: Path) -> None:
    """Nothing of it is left here afterwards; if it cannot be made into one, the job begins anew."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "job"
    state = SampleState("lbfgs", 7, OPTIMIZERS["lbfgs"].start(torch.rand(1, 3, 8, 9), 1.0, 2))
    checkpoints.write(path, Checkpoint("owner", state), Ledger(path, None))
    worker = remote(tmp_path / "in")
    worker.send(Start("a", whole_spec(), str(path)))
    found = await collected(worker.outbox, "command")
    data = b"".join(message.piece.data for message in found[:-1] if message.piece.kind == pb.FILE_KIND_CHECKPOINT)
    assert data.startswith(MAGIC)
    assert wire.decode(found[-1].command).resumes
    (tmp_path / "arrived").write_bytes(data)
    arrived = checkpoints.read(tmp_path / "arrived", "owner").state
    assert arrived.step == 7
    assert all(torch.equal(arrived.tensors[name], tensor) for name, tensor in state.tensors.items())
    assert list((tmp_path / "in").iterdir()) == []
    (tmp_path / "in").rmdir()
    worker.send(Start("b", whole_spec(), str(path)))
    assert not wire.decode((await collected(worker.outbox, "command"))[-1].command).resumes


async def test_a_checkpoint_that_was_being_written_when_its_job_was_cancelled_does_not_stay(tmp_path: Path) -> None:
    """The worker's process learns of it after its step; that of a job that runs stays."""
    with ThreadPoolExecutor(1) as encoding:
        worker = FakeWorker(hang=True)
        desk = Desk(worker, tmp_path, encoding)
        worker.start(desk._report, lambda _: None)
        states = tmp_path / "states"
        start = wire.start_job(Start("a", whole_spec()), resumes=False)
        await desk.take(pb.JoinResponse(command=wire.encode(start)))
        for cancelled in (False, True):
            if cancelled:
                await desk.take(pb.JoinResponse(command=wire.encode(Cancel("a"))))
            (states / "a").write_bytes(b"state")
            worker.report(Checkpointed("a", 5))
            assert [path.name for path in states.iterdir()] == ([] if cancelled else ["a"])
        await desk.close()


async def test_a_checkpoint_that_arrives_damaged_is_not_kept(tmp_path: Path) -> None:
    """The one before stays."""
    (tmp_path / "in").mkdir()
    body = b"state"
    good = MAGIC + hashlib.sha256(body).digest() + body
    worker = remote(tmp_path / "in")
    reports: list[Any] = []
    worker.start(reports.append, lambda _: None)
    worker.send(Start("a", whole_spec(), str(tmp_path / "job")))
    for data in (good, good[:-1] + b"?", good):
        async for piece in pieces(pb.FILE_KIND_CHECKPOINT, "a", data):
            await worker.take(pb.JoinRequest(piece=piece))
        while worker._saving:
            await asyncio.sleep(0)
        assert is_whole(tmp_path / "job")
    assert reports == [Checkpointed("a", len(good))] * 2
    assert not list((tmp_path / "in").iterdir())


async def test_checkpoints_that_follow_closely_are_all_kept(tmp_path: Path) -> None:
    """The next one begins to arrive while the one before is being checked."""
    (tmp_path / "in").mkdir()
    worker = remote(tmp_path / "in")
    reports: list[Any] = []
    worker.start(reports.append, lambda _: None)
    worker.send(Start("a", whole_spec(), str(tmp_path / "job")))
    for number in range(5):
        body = bytes([number]) * 300_000
        data = MAGIC + hashlib.sha256(body).digest() + body
        async for piece in pieces(pb.FILE_KIND_CHECKPOINT, "a", data):
            await worker.take(pb.JoinRequest(piece=piece))
    while worker._saving:
        await asyncio.sleep(0.01)
    assert reports == [Checkpointed("a", len(data))] * 5
    assert (tmp_path / "job").read_bytes() == data


@pytest.mark.parametrize(
    "piece",
    [
        pb.Piece(kind=pb.FILE_KIND_PICTURE, name="../x", size_bytes=1, data=b"x"),
        pb.Piece(kind=pb.FILE_KIND_PICTURE, name=".x", size_bytes=1, data=b"x"),
        pb.Piece(kind=pb.FILE_KIND_PICTURE, name="x", size_bytes=1, data=b"xx"),
    ],
)
async def test_a_piece_cannot_name_a_path_or_exceed_its_file(tmp_path: Path, piece: pb.Piece) -> None:
    with pytest.raises(wire.WireError):
        await Inbox(tmp_path).take(piece)
    assert not [path for path in tmp_path.parent.rglob("x") if path.is_file() and path.stat().st_size]


async def test_pieces_of_a_file_must_follow_one_another(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    assert await inbox.take(pb.Piece(name="x", size_bytes=4, data=b"ab")) is None
    with pytest.raises(wire.WireError):
        await inbox.take(pb.Piece(name="x", offset_bytes=3, size_bytes=4, data=b"d"))
    inbox.close()


async def test_an_idle_outbox_sends_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto_server.cluster.outbox.HEARTBEAT_S", 0.01)
    outbox = Outbox(lambda: pb.JoinRequest(heartbeat=pb.Heartbeat()))
    assert (await collected(outbox, "heartbeat"))[0].WhichOneof("part") == "heartbeat"


async def test_a_fenced_worker_says_nothing(tmp_path: Path) -> None:
    """Late reports of a stream that was given up are dropped."""
    worker = remote(tmp_path)
    reports: list[Any] = []
    worker.start(reports.append, lambda _: None)
    message = pb.JoinRequest(reports=pb.Reports(reports=[wire.encode(JobParked("a", 1))]))
    await worker.take(message)
    worker.fence()
    await worker.take(message)
    assert reports == [JobParked("a", 1)]
