"""Workers on other machines: each job is done once and gives the same picture, whatever happens to a host."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

import impasto
from tests.integration.cluster.conftest import Cluster, until
from tests.links import Link

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


async def test_a_host_without_blame_however_often(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """Five lost hosts in a row are not its fault; it is done once, with the right picture."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        host = running.add("a")
        await running.until_ready("a")
        undisturbed = await painted_alone(running, client, submit, 200)
        job = await submit(client, steps=200)
        for _ in range(5):
            at = running.running.jobs.store.get(job.job_id).step
            await until(lambda at=at: running.running.jobs.store.get(job.job_id).step > at)
            host.kill()
            await until(lambda: not running.pool.has("a"))
            host = running.add("a")
            await running.until_ready("a")
        assert (await job.result(60)).data == undisturbed


async def test_a_host_can_be_drained_by_name(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """Its jobs move, it stays joined and gets no more; an unknown name is refused."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        for name in ("a", "b"):
            running.add(name, host="tower")
        running.add("c")
        await running.until_ready("a", "b", "c")
        jobs = [await submit(client, steps=300, seed=seed) for seed in range(3)]
        await until(
            lambda: sum(device.step > 0 for device in (running.running.jobs.store.get(job.job_id) for job in jobs)) == 3
        )
        drained = await client.drain_workers("tower")
        assert {(device.name, device.draining) for device in drained} == {("a", True), ("b", True)}
        await until(lambda: running.running.jobs.dispatcher.running_on == {"a": 0, "b": 0, "c": 1})
        await asyncio.sleep(0.3)
        assert running.running.jobs.dispatcher.running_on == {"a": 0, "b": 0, "c": 1}
        for name in ("nobody", ""):
            with pytest.raises(impasto.NotFound, match="has joined"):
                await client.drain_workers(name)
        for job in jobs:
            await job.cancel()


async def test_the_server_is_restarted(
    cluster: Callable[..., Any], submit: Callable[..., Any], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers join the next server by themselves, and the jobs resume there; the server's end does not count them as lost."""
    address = f"127.0.0.1:{free_port}"
    async with cluster(worker_listen=address) as running:
        host = running.add("a")
        async with impasto.AsyncClient(running.running.address) as client:
            await running.until_ready("a")
            undisturbed = await painted_alone(running, client, submit, 200)
            job_id = (await submit(client, steps=200)).job_id
            await until(lambda: running.running.jobs.store.get(job_id).step > 50)
        running.hosts.clear()  # it outlives the server
        lost = running.running.metrics.registry.get_sample_value
        close = running.running.jobs.store.close

        async def close_slowly() -> None:
            """The streams end meanwhile."""
            await asyncio.sleep(0.5)
            await close()

        monkeypatch.setattr(running.running.jobs.store, "close", close_slowly)
    assert lost("impasto_remote_workers_lost_total", {"host": "host-a"}) is None
    async with cluster(worker_listen=address) as running, impasto.AsyncClient(running.running.address) as client:
        running.hosts.append(host)
        await running.until_ready("a")
        result = await client.job(job_id).result(60)
        assert result.data == undisturbed
        starts = [
            event.step async for event in client.job(job_id).progress(resume_after=0) if isinstance(event, impasto.Started)
        ]
        assert len(starts) == 2
        assert starts[1] > 0


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"weights": "others"}, "its filters differ from the server's"),
        ({"host": "elsewhere", "name": "a"}, "choose another with --name"),
        ({"name": "not a name"}, "name: must be"),
        ({"IMPASTO_TOKEN": "wrong"}, "token is not accepted"),
    ],
)
async def test_a_worker_that_does_not_fit_is_refused(
    cluster: Callable[..., Any], tmp_path: Any, more: dict[str, str], text: str
) -> None:
    """Both sides say why, the program ends, and the server's other workers go on."""
    from impasto_server.auth.tokens import new_token

    token, line = new_token("worker")
    (tmp_path / "tokens").write_text(line)
    async with cluster(worker_tokens=str(tmp_path / "tokens")) as running:
        running.add("a", IMPASTO_TOKEN=token)
        await running.until_ready("a")
        wrong = running.add(**{"name": "b", "IMPASTO_TOKEN": token, **more})
        assert await asyncio.to_thread(wrong.process.wait, 30) == 1
        assert text in running.log(wrong).splitlines()[-1]
        lost = running.running.metrics.registry.get_sample_value
        assert lost("impasto_remote_workers_lost_total", {"host": "host-b"}) is None
        assert [status.handle.name for status in running.pool.workers if status.ready] == ["a"]


async def test_another_version_is_refused(cluster: Callable[..., Any]) -> None:
    """And a stream that does not begin with a greeting."""
    import grpc

    from impasto.worker.v1 import worker_pb2 as pb
    from impasto.worker.v1 import worker_pb2_grpc as pb_grpc

    async with cluster() as running, grpc.aio.insecure_channel(running.running.worker_address) as channel:
        stub = pb_grpc.WorkerServiceStub(channel)
        hello = pb.Hello(protocol=1, version="0.0.0", name="a", host="a", device="cpu", incarnation="a")
        for first, text in ((pb.JoinRequest(hello=hello), "the versions differ"), (pb.JoinRequest(), "greeting")):
            with pytest.raises(grpc.aio.AioRpcError, match=text):
                await stub.Join(iter([first])).read()
        assert not running.pool.workers


async def test_a_cut_stream_costs_seconds(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """The worker's own process ends, and a new incarnation joins; the job resumes, on the same host if need be."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        with Link(running.running.worker_address) as link:
            running.add("a", server=link.address)
            await running.until_ready("a")
            undisturbed = await painted_alone(running, client, submit, 150)
            job = await submit(client, steps=150)
            await until(lambda: running.running.jobs.store.get(job.job_id).step > 60)
            link.sever()
            _, step = await first_resume(job)
            assert step > 0
            assert (await job.result(60)).data == undisturbed


async def test_a_slow_link_delays_no_command(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """A checkpoint of 4 MB at 1 MB/s: the worker is not taken for lost, and a cancelled job's place is free at once."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        with Link(running.running.worker_address, bytes_per_s=1e6) as link:
            running.add("a", server=link.address, FAKE_CHECKPOINT_BYTES=str(4 << 20))
            await running.until_ready("a")
            first, second = await submit(client, steps=3000), await submit(client, steps=20, seed=2)
            sent = running.running.metrics.registry.get_sample_value
            direction = {"direction": "to_server"}
            await until(lambda: (sent("impasto_checkpoint_stream_bytes_total", direction) or 0) > 1 << 20)
            await first.cancel()
            await until(lambda: running.running.jobs.store.get(second.job_id).step > 0, 3)
            assert (await second.result(60)).job.state == "succeeded"
            assert sent("impasto_remote_workers_lost_total", {"host": "host-a"}) is None


async def test_a_worker_that_joins_gets_waiting_jobs(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """While others run."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        running.add("a")
        await running.until_ready("a")
        jobs = [await submit(client, steps=250, seed=seed) for seed in range(2)]
        running.add("b")
        await until(lambda: running.running.jobs.store.get(jobs[1].job_id).device == "b")
        for job in jobs:
            assert (await job.result(60)).job.state == "succeeded"


async def test_the_real_engine_on_two_hosts(cluster: Callable[..., Any], submit: Callable[..., Any]) -> None:
    """A killed host leaves no process behind, and the picture is the undisturbed one, bit for bit."""
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        hosts = {name: running.add_real(name) for name in ("a", "b")}
        await running.until_ready("a", "b", within_s=90)
        paint = {"steps": 60, "optimizer": "adam"}
        undisturbed = (await (await submit(client, **paint)).result(60)).data
        job = await submit(client, **paint)
        await until(lambda: running.running.jobs.store.get(job.job_id).step > 20, 60)
        host = hosts[running.running.jobs.store.get(job.job_id).device]
        children = psutil.Process(host.process.pid).children(recursive=True)
        assert children
        host.kill()
        _, step = await first_resume(job)
        assert step > 0
        assert (await job.result(60)).data == undisturbed
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
        assert (await job.info()).network.weights == "builtin"


async def test_a_second_worker_of_the_same_name_is_refused(cluster: Callable[..., Any]) -> None:
    """The first one goes on; two processes must not throw one another out."""
    async with cluster() as running:
        running.add("a")
        await running.until_ready("a")
        second = running.add("a")
        assert await asyncio.to_thread(second.process.wait, 30) == 1
        assert "choose another with --name" in running.log(second).splitlines()[-1]
        assert [status.handle.name for status in running.pool.workers if status.ready] == ["a"]


async def test_a_server_whose_workers_all_drain_accepts_no_jobs(
    cluster: Callable[..., Any], submit: Callable[..., Any]
) -> None:
    """Health says so too; a worker that is told to end is not counted as lost or restarted."""
    async with cluster() as running, impasto.AsyncClient(running.running.address, patience_s=0) as client:
        host = running.add("a")
        await running.until_ready("a")
        await client.drain_workers("a")
        with pytest.raises(impasto.Unavailable, match="no worker is ready"):
            await submit(client)
        await until(lambda: not running.running.jobs.dispatcher.accepting)
        host.signal(signal.SIGTERM)
        await until(lambda: not running.pool.has("a"))
        value = running.running.metrics.registry.get_sample_value
        assert value("impasto_remote_workers_lost_total", {"host": "host-a"}) is None
        assert not value("impasto_worker_restarts_total", {"device": "a"})
