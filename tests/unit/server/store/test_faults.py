"""Faults of the machine under a server with durable jobs: a disk that is really full, a clock that jumps."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from impasto_server.domain.errors import ServiceError
from impasto_server.domain.job import JobState
from impasto_server.store import sqlite as durable
from tests.unit.server.fakes import PARTS, FakeWorker, spec
from tests.unit.server.store.test_sqlite import serving


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of one megabyte; skips where none can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


async def test_a_full_disk_refuses_new_jobs_and_the_running_one_ends(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events are seen and its picture is there; when there is room again, jobs are taken and everything is kept."""
    monkeypatch.setattr(durable, "RETRY_S", 0.02)
    async with serving(small_disk, FakeWorker(step_s=0.02), max_running_jobs=1) as dispatcher:
        running = await dispatcher.submit(spec(steps=40), "", "d", detached=True)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        refused = 0
        for width in range(40, 60):
            try:
                await dispatcher.submit(spec(width=width), "", "d", detached=True)
            except ServiceError as error:
                assert (error.code, error.reason) == ("UNAVAILABLE", "STORAGE_FAILED")
                refused += 1
        assert refused == 20
        ended = await asyncio.wait_for(dispatcher.wait(running), 60)
        assert ended.state is JobState.SUCCEEDED
        assert dispatcher.result(running.job_id).startswith(b"\x89PNG")
        filler.unlink()
        await asyncio.sleep(0.2)
        another = await dispatcher.submit(spec(width=61), "", "d", detached=True)
        assert (await asyncio.wait_for(dispatcher.wait(another), 60)).state is JobState.SUCCEEDED
    async with serving(small_disk, FakeWorker()) as dispatcher:
        assert dispatcher.get(running.job_id).state is JobState.SUCCEEDED
        assert dispatcher.result(running.job_id).startswith(b"\x89PNG")


@pytest.mark.parametrize("jump_s", [-86_400.0 * 365, 86_400.0 * 365])
async def test_a_clock_that_jumps_disturbs_no_running_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Time limits go on by the monotonic clock; of ended jobs, a jump forward forgets those whose time it passes."""
    async with serving(tmp_path, FakeWorker(step_s=0.01)) as dispatcher:
        old = await dispatcher.submit(spec(), "", "d", detached=True)
        await asyncio.wait_for(dispatcher.wait(old), 2)
        running = await dispatcher.submit(spec(steps=30, time_limit_s=5.0), "", "d", detached=True)
        waiting = await dispatcher.submit(spec(steps=2), "", "d", detached=True)
        now = time.time
        monkeypatch.setattr("time.time", lambda: now() + jump_s)
        later = await dispatcher.submit(spec(), "", "d", detached=True)
        for job in (running, waiting, later):
            assert (await asyncio.wait_for(dispatcher.wait(job), 30)).state is JobState.SUCCEEDED
        PARTS[dispatcher].supervisor.expire()
        kept = {job.job_id for job in dispatcher.page(None, 10)}
        assert (old.job_id in kept) is (jump_s < 0)
