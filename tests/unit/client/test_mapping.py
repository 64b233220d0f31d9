"""Many pictures through ``map``: bounded, in order or not, errors as values, and memory that does not grow."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

import impasto
from impasto._mapping import default_in_flight
from impasto.results import ServerInfo
from impasto.v1 import style_transfer_pb2 as pb
from tests.conftest import JPEG
from tests.unit.client.servers import FakeService, serving

PAIRS = int(os.environ.get("IMPASTO_TEST_PAIRS", "2000"))


def mapped(kind: str, address: str, *arguments: Any, **options: Any) -> list[impasto.Mapped]:
    """Run ``map`` of one of the clients to its end."""
    if kind == "sync":
        with impasto.Client(address) as client:
            return list(client.map(*arguments, **options))

    async def run() -> list[impasto.Mapped]:
        async with impasto.AsyncClient(address) as client:
            return [item async for item in client.map(*arguments, **options)]

    return asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def kind(request: Any) -> str:
    return str(request.param)


def refusing(*numbers: int, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> Callable[[int, Any], None]:
    def refuse(number: int, context: Any) -> None:
        if number in numbers:
            context.abort(code, f"job {number} is refused")

    return refuse


def test_results_come_in_order_and_bounded(kind: str, tmp_path: Path) -> None:
    """The style's file is uploaded once; content and style are told with each result."""
    (tmp_path / "s.png").write_bytes(JPEG + b"style")
    service = FakeService()
    with serving(service) as address:
        found = mapped(kind, address, [JPEG + b"%d" % number for number in range(40)], tmp_path / "s.png", in_flight=4)
    assert [item.index for item in found] == list(range(40))
    assert [item.content for item in found] == [JPEG + b"%d" % number for number in range(40)]
    assert all(item.result.data.startswith(b"job-") for item in found)
    for item in found:
        job_id = item.result.data.rstrip(b".").decode()
        assert service.specs[job_id].content.data == item.content
        assert service.specs[job_id].styles[0].image.image_id
    assert service.most <= 4
    assert service.uploads == 1


def test_each_content_may_have_its_own_styles(kind: str) -> None:
    """An iterable of styles is read along with the contents; a mix is a list in it."""
    service = FakeService()
    styles = iter([JPEG + b"one", [(JPEG + b"a", 0.7), (JPEG + b"b", 0.3)], impasto.Style(JPEG + b"two")])
    with serving(service) as address:
        found = mapped(kind, address, iter([JPEG + b"1", JPEG + b"2", JPEG + b"3"]), styles, in_flight=1)
    sent = [service.specs[item.result.job.job_id] for item in found]
    assert [[style.image.data for style in spec.styles] for spec in sent] == [
        [JPEG + b"one"],
        [JPEG + b"a", JPEG + b"b"],
        [JPEG + b"two"],
    ]
    assert [style.weight for style in sent[1].styles] == [0.7, 0.3]


def test_errors_are_values_where_asked_and_are_raised_elsewhere(kind: str) -> None:
    service = FakeService(refusing(3))
    with serving(service) as address:
        found = mapped(kind, address, [JPEG + b"x"] * 5, JPEG + b"s", in_flight=1, errors="return")
        assert [type(item.error) for item in found] == [type(None), type(None), impasto.InvalidRequest, type(None), type(None)]
        with pytest.raises(impasto.InvalidRequest, match="job 3 is refused"):
            found[2].result  # noqa: B018
        service.submitted = 0
        with pytest.raises(impasto.InvalidRequest, match="job 3 is refused"):
            mapped(kind, address, [JPEG + b"x"] * 5, JPEG + b"s", in_flight=1)


def test_a_job_that_was_lost_is_submitted_again(kind: str) -> None:
    """JOB_NOT_FOUND is of a server that was restarted and keeps no jobs."""
    lost = {1}

    class Forgetful(FakeService):
        def Progress(self, request: pb.ProgressRequest, context: Any) -> Iterator[pb.ProgressResponse]:
            if lost:
                lost.clear()
                yield pb.ProgressResponse(
                    sequence=1,
                    result=pb.JobResult(
                        job=pb.Job(job_id="x", state=pb.JOB_STATE_FAILED, error=pb.JobError(reason="WORKER_LOST", message="x"))
                    ),
                )
                return
            yield from super().Progress(request, context)

    service = Forgetful()
    with serving(service) as address:
        assert mapped(kind, address, [JPEG + b"x"], JPEG + b"s", in_flight=1)[0].result.data
    assert service.submitted == 2


def test_results_may_come_as_they_are_ready() -> None:
    """A slow first job does not hold up the others; in order it does, and no more than twice the window is started."""
    gate = {"job-1"}

    class Slow(FakeService):
        def Progress(self, request: pb.ProgressRequest, context: Any) -> Iterator[pb.ProgressResponse]:
            while request.job_id in gate:
                time.sleep(0.01)
            yield from super().Progress(request, context)

    service = Slow()
    with serving(service) as address, impasto.Client(address) as client:
        found = client.map([JPEG + b"%d" % number for number in range(6)], JPEG + b"s", in_flight=2, ordered=False)
        first = next(found)
        second = next(found)
        gate.clear()
        rest = list(found)
        assert sorted(item.index for item in (first, second, *rest)) == list(range(6))
        assert service.specs["job-1"].content.data not in (first.content, second.content)
        gate.add("job-7")
        ordered = client.map([JPEG + b"x"] * 50, JPEG + b"s", in_flight=2)
        waiting = threading.Thread(target=lambda: next(ordered))
        waiting.start()
        time.sleep(0.5)
        assert service.submitted <= 6 + 4
        gate.clear()
        waiting.join()
        ordered.close()


def test_leaving_the_loop_cancels_what_runs() -> None:
    """And starts nothing more."""
    service = FakeService()
    with serving(service) as address, impasto.Client(address) as client:
        for _ in client.map([JPEG + b"x"] * 50, JPEG + b"s", in_flight=3):
            service.hold.clear()
            time.sleep(0.2)
            break
        assert service.in_flight == 0 or set(service.cancelled)
        assert service.submitted < 12
        submitted = service.submitted
        time.sleep(0.2)
        assert service.submitted == submitted


async def test_a_full_queue_is_waited_for() -> None:
    """And the error is told where waiting cannot help."""
    pytest.importorskip("torch")  # where the server is installed

    @asynccontextmanager
    async def real() -> AsyncIterator[str]:
        from tests.integration.contract.conftest import _service
        from tests.unit.server.fakes import FakeWorker

        async with _service(FakeWorker(step_s=0.002), max_queued_jobs=1) as running:
            yield running.running.address

    from tests.conftest import encoded, picture

    async with real() as address, impasto.AsyncClient(address) as client:
        items = [
            item
            async for item in client.map(
                [encoded(picture())] * 8, encoded(picture(seed=1)), in_flight=6, size_px=48, steps=3, levels=1
            )
        ]
        assert [item.result.job.state for item in items] == ["succeeded"] * 8


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("one.jpg", JPEG + b"s"), {}, "contents: must be several pictures"),
        (([JPEG + b"a", JPEG + b"b"], [JPEG + b"s"]), {}, "styles: there are 1 for 2 contents"),
        (([JPEG + b"a"], 7), {}, "styles: must be a picture"),
        (([JPEG + b"a"], JPEG + b"s"), {"in_flight": 0}, "in_flight: must be a whole number"),
        (([JPEG + b"a"], JPEG + b"s"), {"errors": "hide"}, "errors: must be 'raise' or 'return'"),
    ],
)
def test_invalid_arguments_are_refused_by_name_at_the_call(arguments: Any, options: Any, text: str) -> None:
    """Not first when the iteration starts."""
    with pytest.raises(impasto.InvalidRequest, match=text):
        impasto.Client("localhost:1").map(*arguments, **options)


def test_the_window_follows_what_the_server_takes() -> None:
    """As many as run, and two or as many ahead; a quota is respected; older servers tell their devices only."""

    def window(**limits: int) -> int:
        return default_in_flight(ServerInfo("", True, (), (), {}, limits, 0, 0, True, 0, 0))

    assert window(max_running_jobs=1, max_queued_jobs=256) == 3
    assert window(max_running_jobs=16, max_queued_jobs=256) == 32
    assert window(max_running_jobs=16, max_queued_jobs=256, max_client_jobs=5) == 5
    assert window(max_running_jobs=4, max_queued_jobs=1) == 5
    assert window() == 3


@pytest.mark.slow
def test_memory_stays_flat_over_many_pairs(kind: str) -> None:
    """Their pictures have 200 MB together; `make soak-batch` takes 10,000 pairs, which have a gigabyte."""
    command = [sys.executable, "-m", "tests.unit.client.servers"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    own, sizes = psutil.Process(), []

    def measure(number: int, data: bytes) -> None:
        assert len(data) == 100_000
        if number in (PAIRS // 4, PAIRS - 1):
            sizes.append(own.memory_info().rss)

    try:
        address = server.stdout.readline().strip()
        contents = (JPEG + b"content %d" % number for number in range(PAIRS))
        if kind == "sync":
            with impasto.Client(address) as client:
                for item in client.map(contents, JPEG + b"style", in_flight=8):
                    measure(item.index, item.result.data)
        else:

            async def run() -> None:
                async with impasto.AsyncClient(address) as client:
                    async for item in client.map(contents, JPEG + b"style", in_flight=8):
                        measure(item.index, item.result.data)

            asyncio.run(run())
    finally:
        server.stdin.close()
        server.wait(10)
        server.stdout.close()
    print(f"{kind}: {sizes[0] >> 20} MiB after a quarter of {PAIRS} pairs, {sizes[1] >> 20} MiB at their end")
    assert sizes[1] - sizes[0] < 32 << 20, sizes
