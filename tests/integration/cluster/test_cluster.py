"""Workers on other machines: each job is done once and gives the same picture, whatever happens to a host."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import impasto
from tests.integration.cluster.conftest import Cluster, until

pytestmark = pytest.mark.cluster


async def first_resume(job: impasto.AsyncJob) -> tuple[float, int]:
    """Return when the job started for the second time, and after which step."""
    starts = 0
    async for event in job.progress(resume_after=0):
        if isinstance(event, impasto.Started):
            starts += 1
            if starts == 2:
                return time.monotonic(), event.step
    raise AssertionError("it did not resume")


async def test_a_worker_joins_and_paints(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """The picture is what the same steps give anywhere, encoded on the worker's host, with its provenance."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        running.add("a")
        await running.until_ready("a")
        job = await submit(client, steps=20)
        result = await job.result(30)
        assert (result.job.state, result.job.step, result.job.device) == ("succeeded", 20, "a")
        assert b"impasto" in result.data
        assert (await client.server_info()).devices[0].host == "host-a"


async def painted_alone(running: Cluster, client: impasto.AsyncClient, submit: Callable[..., Any], steps: int) -> bytes:
    result = await (await submit(client, steps=steps)).result(60)
    return result.data


async def test_a_killed_host_costs_seconds_and_no_job(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """The job resumes elsewhere from its checkpoint, without blame, with no gap in its events and the same picture."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        hosts = {name: running.add(name) for name in ("a", "b")}
        await running.until_ready("a", "b")
        undisturbed = await painted_alone(running, client, submit, 150)
        job = await submit(client, steps=150)
        await until(lambda: running.running.jobs.store.get(job.job_id).step > 80)
        hosts[running.running.jobs.store.get(job.job_id).device].kill()
        killed = time.monotonic()
        resumed, step = await first_resume(job)
        assert resumed - killed < 2
        assert step > 0
        events = [event async for event in job.progress(resume_after=0)]
        assert isinstance(events[-1], impasto.Finished)
        assert (await job.result()).data == undisturbed
        kept = running.running.jobs.store.get(job.job_id)
        assert (kept.losses_of_worker, kept.attempts) == (0, 2)


async def test_a_frozen_host_is_fenced(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """After three seconds of silence its job resumes elsewhere; what it says when it wakes is dropped, and it joins again."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        hosts = {name: running.add(name) for name in ("a", "b")}
        await running.until_ready("a", "b")
        undisturbed = await painted_alone(running, client, submit, 400)
        job = await submit(client, steps=400)
        await until(lambda: running.running.jobs.store.get(job.job_id).step > 50)
        frozen = running.running.jobs.store.get(job.job_id).device
        hosts[frozen].signal(signal.SIGSTOP)
        began = time.monotonic()
        resumed, _ = await first_resume(job)
        assert 2 < resumed - began < 5
        hosts[frozen].signal(signal.SIGCONT)
        result = await job.result(60)
        assert result.data == undisturbed
        await running.until_ready("a", "b")


async def test_a_drained_host_loses_nothing(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """SIGTERM: its job is parked, moves with its state, and no step is done again."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        hosts = {name: running.add(name) for name in ("a", "b")}
        await running.until_ready("a", "b")
        undisturbed = await painted_alone(running, client, submit, 150)
        job = await submit(client, steps=150)
        await until(lambda: running.running.jobs.store.get(job.job_id).step > 30)
        leaving = hosts[running.running.jobs.store.get(job.job_id).device]
        leaving.signal(signal.SIGTERM)
        events = [event async for event in job.progress(resume_after=0)]
        starts = [event for event in events if isinstance(event, impasto.Started)]
        steps = [event.step for event in events if isinstance(event, impasto.Step)]
        assert len(starts) == 2
        assert steps == list(range(1, 151))
        assert (await job.result()).data == undisturbed
        assert await asyncio.to_thread(leaving.process.wait, 20) == 0
