"""Labels: stored, shown, filtered by, and the commands that use them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import impasto
from impasto.cli.main import cli
from impasto.cli.output import JOBS_HEADER
from impasto.v1 import style_transfer_pb2 as pb
from impasto_server.domain.job import JobState
from tests.integration.contract.test_operations import as_caller, people  # noqa: F401 - a fixture
from tests.integration.contract.test_service import fails
from tests.integration.contract.test_storms import settles
from tests.unit.server.fakes import FakeWorker


async def command(address: str, *arguments: str) -> Result:
    """Run a command against the service of this process."""
    environment = {"IMPASTO_SERVER": address, "COLUMNS": "200"}
    return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, arguments)


async def submitted(running: Any, spec: Any, **labels: str) -> str:
    made = spec()
    made.labels.update(labels)
    return str((await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made))).job.job_id)


async def test_labels_are_echoed_and_filter_lists(service: Any, spec: Any) -> None:
    """All labels of a filter must match, across pages; labels do not change the picture's parameters."""
    async with service(FakeWorker(hang=True)) as running:
        ids = [await submitted(running, spec, album="norway", shot=str(number)) for number in range(3)]
        other = await submitted(running, spec, album="peru")
        shown = (await running.stub.GetJob(pb.GetJobRequest(job_id=ids[1]))).job
        assert dict(shown.labels) == {"album": "norway", "shot": "1"}
        async with impasto.AsyncClient(running.running.address) as client:
            assert [job.job_id async for job in client.jobs(labels={"album": "norway"})] == ids[::-1]
            both = [job async for job in client.jobs(labels={"album": "norway", "shot": "2"})]
            assert [(job.job_id, job.labels) for job in both] == [(ids[2], {"album": "norway", "shot": "2"})]
            assert [job.job_id async for job in client.jobs(labels={"album": "Norway"})] == []
            assert [job.job_id async for job in client.jobs(["queued", "running"], labels={"album": "peru"})] == [other]
        first = await running.stub.ListJobs(pb.ListJobsRequest(labels={"album": "norway"}, page_size=2))
        rest = await running.stub.ListJobs(
            pb.ListJobsRequest(labels={"album": "norway"}, page_size=2, page_token=first.next_page_token)
        )
        assert [job.job_id for job in (*first.jobs, *rest.jobs)] == ids[::-1]


async def test_lists_are_filtered_by_time(service: Any, spec: Any) -> None:
    """From a moment on, and before one; a moment without a time zone is local."""
    async with service() as running:
        job_id = await submitted(running, spec)
        async with impasto.AsyncClient(running.running.address) as client:
            now, hour = datetime.now(UTC), timedelta(hours=1)
            local = datetime.now().astimezone().replace(tzinfo=None)
            assert [job.job_id async for job in client.jobs(created_from=local - hour)] == [job_id]
            assert [job.job_id async for job in client.jobs(created_from=now - hour, created_before=now + hour)] == [job_id]
            assert [job async for job in client.jobs(created_from=now + hour)] == []
            assert [job async for job in client.jobs(created_before=now - hour)] == []


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({f"n{number}": "" for number in range(17)}, "at most 16"),
        ({"two words": "x"}, "'two words' must have 1 to 63"),
        ({"": "x"}, "'' must have 1 to 63"),
        ({"n" * 64: "x"}, "must have 1 to 63"),
        ({"bell": "\a"}, "the value of 'bell'"),
        ({"long": "v" * 129}, "at most 128 printable"),
    ],
)
async def test_invalid_labels_are_refused_by_name(service: Any, spec: Any, labels: dict[str, str], text: str) -> None:
    """In a job and in a filter; nothing is stored."""
    async with service() as running:
        made = spec()
        made.labels.update(labels)
        for call in (
            running.stub.SubmitJob(pb.SubmitJobRequest(spec=made)),
            running.stub.ListJobs(pb.ListJobsRequest(labels=labels)),
        ):
            _, _, violations = await fails(call)
            assert text in violations["labels"]
        assert not (await running.stub.ListJobs(pb.ListJobsRequest())).jobs


async def test_only_administrators_list_the_jobs_of_others(service: Any, spec: Any, people: dict[str, str]) -> None:  # noqa: F811
    """An administrator may choose one caller; others may name themselves only."""
    async with service(tokens=people["file"]) as running:
        ann, bob, root = (as_caller(people[name]) for name in ("ann", "bob", "root"))
        ids = {}
        for name, caller in (("ann", ann), ("bob", bob)):
            ids[name] = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=spec()), **caller)).job.job_id
        listed = (await running.stub.ListJobs(pb.ListJobsRequest(owner="bob"), **root)).jobs
        assert [job.job_id for job in listed] == [ids["bob"]]
        listed = (await running.stub.ListJobs(pb.ListJobsRequest(owner="ann"), **ann)).jobs
        assert [job.job_id for job in listed] == [ids["ann"]]
        _, _, violations = await fails(running.stub.ListJobs(pb.ListJobsRequest(owner="bob"), **ann))
        assert "only an administrator" in violations["owner"]


async def test_labels_survive_a_restart(service: Any, spec: Any, tmp_path: Path) -> None:
    async with service(data_dir=str(tmp_path)) as running:
        job_id = await submitted(running, spec, album="norway")
    async with service(data_dir=str(tmp_path)) as running:
        listed = (await running.stub.ListJobs(pb.ListJobsRequest(labels={"album": "norway"}))).jobs
        assert [job.job_id for job in listed] == [job_id]


async def test_commands_list_cancel_and_delete_by_label(service: Any, spec: Any) -> None:
    """Others are not touched; ids and labels together are refused, and neither too."""
    async with service(FakeWorker(hang=True)) as running:
        address = running.running.address
        ids = {await submitted(running, spec, album="norway") for _ in range(2)}
        other = await submitted(running, spec, album="peru")
        listed = await command(address, "jobs", "list", "--label", "album=norway", "--since", "1h", "--json")
        assert {job["job_id"] for job in json.loads(listed.stdout)} == ids
        assert json.loads((await command(address, "jobs", "list", "--before", "1h", "--json")).stdout) == []
        cancelled = await command(address, "jobs", "cancel", "--label", "album=norway", "--json")
        assert {(job["job_id"], job["state"]) for job in json.loads(cancelled.stdout)} == {(one, "cancelled") for one in ids}
        again = await command(address, "jobs", "cancel", "--label", "album=norway")
        assert "no job has these labels and is unfinished" in again.stderr
        deleted = await command(address, "jobs", "delete", "--label", "album=norway")
        assert deleted.exit_code == 0, deleted.output
        left = (await running.stub.ListJobs(pb.ListJobsRequest())).jobs
        assert [job.job_id for job in left] == [other]
        for wrong in (["cancel"], ["delete", other, "--label", "a=b"]):
            done = await command(address, "jobs", *wrong)
            assert "give either job ids or --label" in done.output
        done = await command(address, "jobs", "list", "--label", "album")
        assert "is not NAME=VALUE" in done.output
        done = await command(address, "jobs", "list", "--since", "yesterday")
        assert "is not a time" in done.output


async def test_cancelled_jobs_are_shown_as_in_a_list(service: Any, spec: Any) -> None:
    """Several with the list's columns and names; a single one on a line, as by pause and resume."""
    async with service(FakeWorker(hang=True)) as running:
        address = running.running.address
        ids = [await submitted(running, spec, album="norway") for _ in range(2)]
        done = await command(address, "jobs", "cancel", "--label", "album=norway")
        header, *lines = done.stdout.splitlines()
        assert header == JOBS_HEADER
        assert [line.split()[:2] for line in lines] == [[one, "cancelled"] for one in ids[::-1]]
        listed = (await command(address, "jobs", "list")).stdout.splitlines()
        columns = slice(0, header.index("AGE"))
        assert [line[columns] for line in listed] == [line[columns] for line in (header, *lines)]
        single = await command(address, "jobs", "cancel", await submitted(running, spec))
        assert len(single.stdout.splitlines()) == 1


@pytest.mark.parametrize("act", ["cancel", "delete"])
async def test_unknown_jobs_do_not_keep_others_from_being_ended(service: Any, spec: Any, act: str) -> None:
    """All are tried, and each that is unknown is told."""
    async with service(FakeWorker(hang=True)) as running:
        first, second = [await submitted(running, spec) for _ in range(2)]
        done = await command(running.running.address, "jobs", act, first, "nosuch", second, "other")
        assert "no job 'nosuch'" in done.stderr
        assert "no job 'other'" in str(done.exception)
        assert {first, second} <= set(done.output.split())
        states = {job.state for job in (await running.stub.ListJobs(pb.ListJobsRequest())).jobs}
        assert states == ({pb.JOB_STATE_CANCELLED} if act == "cancel" else set())


async def test_a_job_that_does_not_pause_at_once_says_when_it_will(service: Any, spec: Any) -> None:
    """One that is paused says nothing more."""
    async with service(FakeWorker(step_s=4.0)) as running:
        job_id = await submitted(running, spec)
        store = running.running.jobs.store
        assert await settles(lambda: store.get(job_id).state is JobState.RUNNING)
        paused = await command(running.running.address, "jobs", "pause", job_id)
        assert (paused.stdout.split()[1], paused.stderr) == ("running", "It pauses at its next step.\n")
        assert await settles(lambda: store.get(job_id).state is JobState.PAUSED)
        paused = await command(running.running.address, "jobs", "pause", job_id)
        assert (paused.stdout.split()[1], paused.stderr) == ("paused", "")


async def test_jobs_are_shown_one_value_on_a_line_and_long_names_are_shortened(service: Any, spec: Any) -> None:
    """Parameters too; the end of a name, with its extension, is kept."""
    async with service() as running:
        made = spec()
        made.labels["album"] = "norway"
        made.content.name = "a-photograph-with-a-name-as-long-as-cameras-and-archives-make-them-0001.png"
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made))).job
        shown = (await command(running.running.address, "jobs", "show", job.job_id)).stdout.splitlines()
        assert "parameters" in shown
        assert any(line.split() == ["size_px", "48"] for line in shown)
        assert any(line.split() == ["album", "norway"] for line in shown)
        assert max(map(len, shown)) < 160
        line = (await command(running.running.address, "jobs", "list")).stdout.splitlines()[-1]
        assert "a-photograph-with-…-0001.png" in line
