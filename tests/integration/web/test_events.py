"""Server-sent events: each once and in order, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from tests.integration.web.conftest import events
from tests.unit.server.fakes import FakeWorker


async def test_a_stream_that_is_cut_at_random_places_has_every_event_once(web: Any) -> None:
    """Last-Event-ID resumes: no gap, no duplicate; 204 after the end."""
    async with web(FakeWorker(step_s=0.002)) as running:
        job_id = await running.submit(steps="120")
        path, got, cuts = f"/v1/jobs/{job_id}/events", [], 0
        rng = random.Random(5)
        while not got or got[-1][0] != "result":
            after = got[-1][1] if got else "0"
            left = rng.randint(1, 12)
            async with running.http.stream("GET", path, headers={"last-event-id": after}) as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                async for name, number, data in events(stream):
                    if name in ("snapshot", "heartbeat"):
                        continue
                    got.append((name, number, data))
                    left -= 1
                    if not left:
                        break
            cuts += 1
        assert cuts > 8
        assert [int(number) for _, number, _ in got] == list(range(1, len(got) + 1))
        assert [data["step"]["step"] for name, _, data in got if name == "step"] == list(range(1, 121))
        assert got[0][0] == "start"
        ended = await running.http.get(path, headers={"last-event-id": got[-1][1]})
        assert (ended.status_code, ended.content) == (204, b"")


async def test_a_first_connection_gets_the_snapshot_and_all_events_on_request(web: Any) -> None:
    """?after=0 is for an EventSource, which cannot send a header."""
    async with web() as running:
        job_id = await running.submit(steps="4", preview_every_steps="1")
        await running.ended(job_id)
        async with running.http.stream("GET", f"/v1/jobs/{job_id}/events?after=0") as stream:
            names = [name async for name, _, _ in events(stream)]
        assert names == ["snapshot", "start", "step", "step", "step", "step", "result"]
        async with running.http.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            assert [name async for name, _, _ in events(stream)] == ["snapshot", "result"]


async def test_errors_come_before_the_stream(web: Any) -> None:
    """As JSON with their code: a stream that starts is one."""
    async with web() as running:
        job_id = await running.submit()
        for header in ("x", "-1", "1.5", "9" * 30, "\u0661".encode()):
            answer = await running.http.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": header})
            assert answer.status_code == 400, header
            assert answer.json()["message"].startswith("Last-Event-ID: must be a sequence number")
        answer = await running.http.get(f"/v1/jobs/{job_id}/events?after=-1")
        assert (answer.status_code, answer.json()["message"]) == (400, "after: must be a sequence number, got '-1'")
        assert (await running.http.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": "999"})).status_code == 400
        assert (await running.http.get("/v1/jobs/none/events")).status_code == 404


async def test_a_gateway_that_stops_tells_its_watchers(web: Any) -> None:
    """Its streams end at once, with a status to retry; the calls behind them end too."""
    async with web(FakeWorker(hang=True)) as running:
        job_id = await running.submit()
        async with running.http.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            found = events(stream)
            assert (await anext(found))[0] == "snapshot"
            running.server.should_exit = True
            async with asyncio.timeout(2):
                rest = [item async for item in found]
        assert rest[-1][0] == "status"
        assert rest[-1][2]["details"][0]["reason"] == "DRAINING"
        async with asyncio.timeout(60):
            while running.service.running.jobs.dispatcher.watchers:
                await asyncio.sleep(0.01)


async def test_a_watcher_that_leaves_frees_its_stream(web: Any) -> None:
    """The server has no watcher left."""
    async with web(FakeWorker(hang=True)) as running:
        job_id = await running.submit()
        async with running.http.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            await anext(events(stream))
            assert running.service.running.jobs.dispatcher.watchers == 1
        async with asyncio.timeout(60):
            while running.service.running.jobs.dispatcher.watchers:
                await asyncio.sleep(0.01)
