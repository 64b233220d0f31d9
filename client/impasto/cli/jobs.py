"""``impasto jobs``."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar

import click

from impasto._client import Client, Job
from impasto.cli import completion
from impasto.cli.arguments import Moment, label_option
from impasto.cli.output import (
    JOBS_HEADER,
    JSON,
    SECONDS,
    SERVER,
    check_output,
    job_line,
    jobs_line,
    print_json,
    print_values,
    tell,
    write_picture,
)
from impasto.errors import ImpastoError, NotFound, NotReady, from_job
from impasto.progress import ProgressBar
from impasto.results import Finished, JobInfo, Paused, Result, Started, Step
from impasto.v1 import style_transfer_pb2 as pb
from impasto.words import words

Done = TypeVar("Done")

STATES = words(pb.JobState)
UNFINISHED = ("queued", "running", "paused")


@click.group()
def jobs() -> None:
    """List, watch, pause, cancel and delete jobs, and get their pictures."""


@jobs.command(name="list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only jobs in this state; repeatable.")
@label_option("Only jobs with this label; repeatable, and all must match.")
@click.option("--since", type=Moment(), help="Only jobs accepted since: 30min, 2h, 3d, or a date.")
@click.option("--before", type=Moment(), help="Only jobs accepted before, likewise.")
@click.option("--owner", default="", help="Only jobs of this caller; for administrators.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Maximum number of jobs.")
@SERVER
@JSON
def list_jobs(
    states: tuple[str, ...],
    labels: dict[str, str] | None,
    since: datetime | None,
    before: datetime | None,
    owner: str,
    limit: int,
    server: str,
    as_json: bool,
) -> None:
    """Show jobs, newest first: state, steps, size, age, loss and the names of their pictures."""
    with Client(server) as client:
        listed = client.jobs(states, labels=labels, created_from=since, created_before=before, owner=owner)
        found = list(itertools.islice(listed, limit))
    if as_json:
        print_json([job.to_dict() for job in found])
        return
    _show_table(found)


def _show_table(found: Sequence[JobInfo]) -> None:
    several = len({job.owner for job in found}) > 1
    if found:
        click.echo(JOBS_HEADER)
    for job in found:
        click.echo(jobs_line(job, with_owner=several))


@jobs.command()
@click.argument("job_id", shell_complete=completion.job_ids())
@SERVER
@JSON
def show(job_id: str, server: str, as_json: bool) -> None:
    """Show everything that is known about a job."""
    with Client(server) as client:
        job = client.job(job_id).info()
    values = job.to_dict()
    if as_json:
        print_json(values)
        return
    print_values(values)


@jobs.command()
@click.argument("job_id", shell_complete=completion.job_ids("queued", "running", "paused"))
@SERVER
@JSON
def watch(job_id: str, server: str, as_json: bool) -> None:
    """Watch a job to its end; stopping the watch does not affect it. Without a terminal a line is printed every few seconds.

    --json prints a line for every step, start and pause, and one for the end.
    """
    with Client(server) as client, _only_watching(job_id), ProgressBar(quiet=as_json, lines=not as_json) as display:
        for event in client.job(job_id).progress():
            if as_json and isinstance(event, Step):
                losses = event.losses
                line = {"step": event.step, "steps": event.steps, "loss": losses.total, "content": losses.content}
                click.echo(json.dumps({**line, "style": losses.style, "remaining_s": event.remaining_s}))
            elif as_json and isinstance(event, Started):
                click.echo(json.dumps({"started": event.device, "attempt": event.attempt, "after_step": event.step}))
            elif as_json and isinstance(event, Paused):
                click.echo(json.dumps({"paused": event.reason, "after_step": event.step}))
            display(event)
            if isinstance(event, Finished):
                job = event.job
    if as_json:
        click.echo(json.dumps({"ended": job.state, "job": job.to_dict()}))
    if job.state != "succeeded":
        raise from_job(job.job_id, job.state, job.error_reason, job.error_message)
    if not as_json:
        click.echo(job_line(job))


@jobs.command()
@click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...", shell_complete=completion.job_ids("queued", "running", "paused"))
@label_option("Cancel all unfinished jobs with this label; repeatable, and all must match.")
@SERVER
@JSON
def cancel(job_ids: tuple[str, ...], labels: dict[str, str] | None, server: str, as_json: bool) -> None:
    """Cancel jobs, by id or by label; they stop at their next step. Several are shown as 'impasto jobs list' shows them."""
    with Client(server) as client:
        chosen = _chosen(client, job_ids, labels, UNFINISHED)
        cancelled, missing = _each(chosen, lambda job_id: client.job(job_id).cancel())
    if as_json:
        values = [job.to_dict() for job in cancelled]
        print_json(values[0] if len(job_ids) == 1 else values)
    elif len(job_ids) == 1:
        click.echo(job_line(cancelled[0]))
    elif cancelled:
        _show_table(cancelled)
    if missing is not None:
        raise missing


def _each(job_ids: Sequence[str], act: Callable[[str], Done]) -> tuple[list[Done], ImpastoError | None]:
    """Act on all jobs, also where one is unknown; return what was done, and the error of the last unknown job.

    The errors of other unknown jobs are told.
    """
    done: list[Done] = []
    missing: ImpastoError | None = None
    for job_id in job_ids:
        try:
            done.append(act(job_id))
        except NotFound as error:
            if len(job_ids) == 1:
                raise
            if missing is not None:
                click.echo(f"Error: {missing}", err=True)
            missing = error
    return done, missing


def _chosen(client: Client, job_ids: Sequence[str], labels: dict[str, str] | None, states: Sequence[str] = ()) -> Sequence[str]:
    """Return the ids that a command names, or those of the jobs with its labels."""
    if bool(job_ids) == bool(labels):
        raise click.UsageError("give either job ids or --label NAME=VALUE")
    if not labels:
        return job_ids
    found = [job.job_id for job in client.jobs(states, labels=labels)]
    if not found:
        click.echo("no job has these labels" + (" and is unfinished" if states else ""), err=True)
    return found


@jobs.command()
@click.argument("job_id", shell_complete=completion.job_ids("queued", "running"))
@SERVER
@JSON
def pause(job_id: str, server: str, as_json: bool) -> None:
    """Pause a job; a running job stops at its next step and keeps its steps.

    A job that stays paused for the server's retention time is cancelled.
    """
    with Client(server) as client:
        job = client.job(job_id).pause()
    _show(job, as_json=as_json)
    if job.state == "running":
        click.echo("It pauses at its next step.", err=True)


@jobs.command()
@click.argument("job_id", shell_complete=completion.job_ids("paused"))
@SERVER
@JSON
def resume(job_id: str, server: str, as_json: bool) -> None:
    """Resume a paused job where it stopped."""
    with Client(server) as client:
        job = client.job(job_id).resume()
    _show(job, as_json=as_json)


@jobs.command()
@click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...", shell_complete=completion.job_ids())
@label_option("Delete all jobs with this label; repeatable, and all must match.")
@SERVER
def delete(job_ids: tuple[str, ...], labels: dict[str, str] | None, server: str) -> None:
    """Delete jobs and their pictures from the server, by id or by label; unfinished ones are cancelled."""
    with Client(server) as client:
        _, missing = _each(_chosen(client, job_ids, labels), lambda job_id: _delete(client, job_id))
    if missing is not None:
        raise missing


def _delete(client: Client, job_id: str) -> None:
    client.job(job_id).delete()
    click.echo(f"{job_id} deleted", err=True)


def _show(job: JobInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(job.to_dict())
    else:
        click.echo(job_line(job))


@jobs.command()
@click.argument("job_id", shell_complete=completion.job_ids("succeeded", "queued", "running"))
@click.option("-o", "--output", "out", required=True, help="Output file: .png, .jpg or .webp, or - for stdout.")
@click.option("--wait", is_flag=True, help="Wait until the job ends.")
@click.option("--timeout", type=SECONDS, help="Maximum seconds to wait; the job continues after it.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@SERVER
@JSON
def result(job_id: str, out: str, wait: bool, timeout: float | None, quiet: bool, server: str, as_json: bool) -> None:
    """Fetch a job's picture."""
    if as_json and out == "-":
        raise click.UsageError("--json and '-o -' both write to stdout")
    check_output(out)
    with Client(server) as client:
        job = client.job(job_id)
        if wait:
            with _only_watching(job_id), ProgressBar(quiet=quiet) as display:
                fetched = job.follow(display, timeout)
        else:
            fetched = _fetch(job)
    write_picture(fetched, out)
    if as_json:
        print_json({**fetched.job.to_dict(), "output": out})
    else:
        tell(fetched)


@contextlib.contextmanager
def _only_watching(job_id: str) -> Iterator[None]:
    """Say, when the command is interrupted, that the job is not."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"Job {job_id} goes on.")
        raise


def _fetch(job: Job) -> Result:
    try:
        return job.fetch()
    except NotReady as error:
        state = error.metadata.get("state", "")
        hints = {"paused": "'impasto jobs resume' resumes it"}
        hints |= dict.fromkeys(("queued", "running"), "--wait waits for it")
        raise click.ClickException(f"{error}" + (f"; {hints[state]}" if state in hints else "")) from None
