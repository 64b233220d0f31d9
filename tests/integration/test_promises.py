"""What the documents and the help promise, sentence by sentence, where no other test holds it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import impasto
from impasto.cli.main import cli
from impasto_server.auth.tokens import new_token
from tests.conftest import ROOT, ServerProcess
from tests.integration.contract import conftest as contract
from tests.integration.contract import test_operations, test_tls
from tests.integration.contract.test_operations import as_caller, value
from tests.integration.contract.test_storms import settles
from tests.integration.test_surroundings import COMMAND, FAST, one_line, run
from tests.unit.server.fakes import FakeWorker

Png = Callable[..., bytes]
SMALL: dict[str, Any] = {"size_px": 48, "levels": 1, "optimizer": "adam"}
ENDLESS: dict[str, Any] = {**SMALL, "steps": 9999}
HEALTH = "grpc.health.v1.Health"

# Fixtures of the contract's tests, under their own names.
service, people, tls = contract.service, test_operations.people, test_tls.tls


@pytest.fixture
def files(tmp_path: Path, png: Png) -> Path:
    """Return a folder with a content and a style that no other test uploads."""
    (tmp_path / "p.png").write_bytes(png(52, 44, seed=4))
    (tmp_path / "s.png").write_bytes(png(50, 46, seed=5))
    return tmp_path


async def command(running: Any, where: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line against a service in this process."""
    given = {"IMPASTO_SERVER": running.running.address, "IMPASTO_TOKEN": "", **environment}
    return await asyncio.to_thread(run, None, where, *arguments, **given)


@contextlib.contextmanager
def started(running: Any, where: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command line against a service in this process."""
    given = {**os.environ, "IMPASTO_SERVER": running.running.address}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*COMMAND, *arguments], cwd=where, env=given, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def watchers(running: Any) -> float:
    return value(running.running.metrics, "impasto_progress_streams")


# docs/howto/operate.md: who may call


async def is_refused(channel: grpc.aio.Channel, method: str, **caller: Any) -> bool:
    """Tell whether a call is refused for its token."""
    for _ in range(5):
        call = channel.stream_stream(method)(iter([b""]), **caller)
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            if error.details() == "Internal error from Core":  # gRPC's, of a call that ended before its message was sent
                continue
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
        finally:
            call.cancel()
        return False
    raise AssertionError("no answer")


async def test_everything_but_health_needs_the_token_reflection_too(service: Any, people: dict[str, str]) -> None:
    """Each method of each service that the server tells of."""
    async with service(tokens=people["file"]) as running:
        ann = as_caller(people["ann"])
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        reflection = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        answer = await reflection.ServerReflectionInfo(iter([asked]), **ann).read()
        services = [item.name for item in answer.list_services_response.service]
        assert len(services) == 4
        pool = descriptor_pool.Default()
        methods = [f"/{name}/{method.name}" for name in services for method in pool.FindServiceByName(name).methods]
        for method in methods:
            assert await is_refused(running.channel, method) == (HEALTH not in method), method
            assert await is_refused(running.channel, method, **as_caller("wrong")) == (HEALTH not in method), method
            assert not await is_refused(running.channel, method, **ann), method
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # a method of a newer health service
            await health_pb2_grpc.HealthStub(running.channel).List(health_pb2.HealthListRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_with_a_client_ca_health_needs_a_certificate_and_readyz_does_not(
    service: Any, tls: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    paths = {name: Path(path).read_bytes() for name, path in tls.items()}
    settings = {"tls_cert": tls["server"], "tls_key": tls["server_key"], "tls_client_ca": tls["ca"], "metrics": "127.0.0.1:0"}
    with caplog.at_level("INFO"):
        async with service(**settings) as running:
            base = re.findall(r"(http://\S+)/metrics", caplog.text)[0]

            async def health(*pair: bytes) -> Any:
                credentials = grpc.ssl_channel_credentials(paths["ca"], *pair)
                async with grpc.aio.secure_channel(running.running.address, credentials) as channel:
                    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
                    return answer.status

            assert await health(paths["ann_key"], paths["ann"]) == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            answer = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{base}/readyz", timeout=60).read())
            assert answer == b"serving\n"


async def test_two_tokens_of_one_name_share_one_set_of_jobs(service: Any, png: Png, tmp_path: Path) -> None:
    """What is handed in with one is seen, fetched and cancelled with the other, and not by somebody else."""
    made = [new_token(name) for name in ("ann", "ann", "bob")]
    (tmp_path / "tokens").write_text("\n".join(line for _, line in made))
    async with service(FakeWorker(hang=True), tokens=str(tmp_path / "tokens"), max_client_jobs=2) as running:
        clients = [
            impasto.AsyncClient(running.running.address, credentials=impasto.Credentials(token=token), patience_s=0)
            for token, _ in made
        ]
        async with clients[0] as one, clients[1] as other, clients[2] as bob:
            job = await one.submit(png(), png(seed=1), request_id="same", **ENDLESS)
            again = await other.submit(png(), png(seed=1), request_id="same", **ENDLESS)
            assert again.job_id == job.job_id
            own = await other.submit(png(), png(seed=1), **ENDLESS)
            for client in (one, other):
                assert {found.job_id async for found in client.jobs()} == {job.job_id, own.job_id}
                with pytest.raises(impasto.Overloaded, match="2"):
                    await client.submit(png(), png(seed=1), **ENDLESS)
            assert [found async for found in bob.jobs()] == []
            assert (await other.job(job.job_id).cancel()).state == "cancelled"
            await one.job(own.job_id).cancel()


async def test_tls_files_are_taken_from_the_environment(service: Any, files: Path, tls: dict[str, str]) -> None:
    """IMPASTO_TLS_CA, IMPASTO_TLS_CERT and IMPASTO_TLS_KEY: the certificate's name owns the job."""
    settings = {"tls_cert": tls["server"], "tls_key": tls["server_key"], "tls_client_ca": tls["ca"]}
    ann = {"IMPASTO_TLS_CA": tls["ca"], "IMPASTO_TLS_CERT": tls["ann"], "IMPASTO_TLS_KEY": tls["ann_key"]}
    async with service(**settings) as running:
        done = await command(running, files, "stylize", "p.png", "s.png", "--detach", *FAST, **ann)
        assert done.returncode == 0, done.stderr
        assert running.running.jobs.dispatcher.get(done.stdout.strip()).owner == "ann"
        for missing, said in (
            ("IMPASTO_TLS_CA", "is not trusted"),
            ("IMPASTO_TLS_CERT", "must be given together"),
            ("IMPASTO_TLS_KEY", "must be given together"),
        ):
            done = await command(running, files, "health", **{name: path for name, path in ann.items() if name != missing})
            assert done.returncode == 1
            assert said in done.stderr


async def test_the_token_comes_from_a_file(service: Any, files: Path) -> None:
    """As `impasto token` printed it."""
    with (files / "ann.token").open("w") as out:
        making = [*COMMAND, "token", "ann", "--file", "tokens"]
        await asyncio.to_thread(subprocess.run, making, cwd=files, stdout=out, check=True)
    async with service(tokens=str(files / "tokens")) as running:
        handing_in = ("stylize", "p.png", "s.png", "--detach", *FAST)
        done = await command(running, files, "--token-file", "ann.token", *handing_in)
        assert done.returncode == 0, done.stderr
        assert running.running.jobs.dispatcher.get(done.stdout.strip()).owner == "ann"
        assert "--token-file" in one_line(await command(running, files, *handing_in))


# docs/howto/operate.md: logs


async def test_calls_are_logged_at_debug_and_what_an_admin_does_to_anothers_job_at_info(
    service: Any, png: Png, people: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """What the owner does is no news; a call without its token is."""

    def told(module: str) -> list[tuple[str, str]]:
        found = [record for record in caplog.records if record.name == f"impasto_server.api.{module}"]
        return [(record.levelname, record.getMessage()) for record in found]

    with caplog.at_level("DEBUG"):
        async with service(FakeWorker(hang=True), tokens=people["file"]) as running:
            address = running.running.address
            async with impasto.AsyncClient(address, credentials=impasto.Credentials(token=people["ann"])) as ann:
                job = await ann.submit(png(), png(seed=1), **ENDLESS)
                await job.pause()
                await job.resume()
            async with impasto.AsyncClient(address, credentials=impasto.Credentials(token=people["root"])) as root:
                same = root.job(job.job_id)
                await same.pause()
                await same.resume()
                await same.cancel()
                await same.delete()
            async with impasto.AsyncClient(address) as nobody:
                with pytest.raises(impasto.Unauthenticated):
                    await nobody.job(job.job_id).info()
            assert await settles(lambda: ("DEBUG", "GetJob ended with Unauthenticated") in told("interceptor"))
    acts = ("pause", "resume", "cancel", "delete")
    assert told("service") == [("INFO", f"{act} of job {job.job_id} of ann by root") for act in acts]
    calls = told("interceptor")
    assert ("DEBUG", "CancelJob ended with OK") in calls
    rejected = [text for level, text in calls if level != "DEBUG"]
    assert len(rejected) == 1
    assert re.fullmatch(r"a call of GetJob from \S+ was rejected: TOKEN_MISSING", rejected[0])


# docs/howto/operate.md: stopping, and what survives


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_server_stops_at_a_closed_terminal_and_at_ctrl_c(number: signal.Signals) -> None:
    """With exit code 0, even before a worker is ready."""
    serve = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--weights", "builtin", "--data-dir", ":memory:"]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            assert any("listening on" in line for line in process.stderr)
            process.send_signal(number)
            _, rest = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


class QuickServer(ServerProcess):
    """`impasto serve` with a worker that paints nothing, step by step: it is there in a second."""

    def __init__(self, *arguments: str) -> None:
        patched = (
            "from impasto_server import app; from tests.unit.server.fakes import FakeWorker; "
            "app.ProcessWorker = lambda settings: FakeWorker(step_s=0.05); "
        )
        serve = ["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--weights", "builtin", *arguments]
        self.process = subprocess.Popen(
            [COMMAND[0], "-c", patched + COMMAND[2], *serve], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.log = []
        self.address = self._wait_for_address()
        self._reader = threading.Thread(target=self._keep_reading, daemon=True)
        self._reader.start()


def painting(job: impasto.Job) -> None:
    """Wait for the next step of a job."""
    assert any(isinstance(event, impasto.Step) for event in job.progress())


def stopped_by_two(server: ServerProcess, first: signal.Signals, second: signal.Signals) -> float:
    """Stop a server that has a job; return the seconds from the second signal to its end."""
    server.process.send_signal(first)
    until = time.monotonic() + 20
    while not any("draining: 1 job has 30 s" in line for line in list(server.log)):
        assert time.monotonic() < until, server.log
        time.sleep(0.02)
    assert server.process.poll() is None
    server.process.send_signal(second)
    began = time.monotonic()
    assert server.process.wait(40) == 0
    return time.monotonic() - began


@pytest.mark.parametrize(("first", "second"), [(signal.SIGHUP, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_ends_the_grace_time_at_once(png: Png, first: signal.Signals, second: signal.Signals) -> None:
    """While a job runs that would take all of it."""
    server = QuickServer("--grace-s", "30", "--data-dir", ":memory:")
    try:
        with impasto.Client(server.address) as client:
            painting(client.submit(png(), png(seed=1), **ENDLESS))
            assert stopped_by_two(server, first, second) < 5
    finally:
        server.process.kill()


def test_a_job_that_runs_when_the_server_stops_is_resumed_by_the_next_one(png: Png, tmp_path: Path) -> None:
    """Where it was, also if the grace time was cut: no step is painted twice, and who watches misses none."""
    settings = ("--data-dir", str(tmp_path / "data"), "--grace-s", "30", "--checkpoint-interval-s", "600")
    servers = [ServerProcess(*settings)]
    try:
        with impasto.Client(servers[0].address) as client:
            job_id = client.submit(png(), png(seed=1), **SMALL, steps=60).job_id
            painting(client.job(job_id))
            assert stopped_by_two(servers[0], signal.SIGTERM, signal.SIGTERM) < 10
        servers.append(ServerProcess(*settings))
        with impasto.Client(servers[1].address) as client:
            events = list(client.job(job_id).progress(resume_after=0))
            assert client.job(job_id).fetch().data
        starts = [event.step for event in events if isinstance(event, impasto.Started)]
        assert starts[0] == 0
        assert len(starts) == 2
        assert 0 < starts[1] < 60
        assert [event.step for event in events if isinstance(event, impasto.Step)] == list(range(1, 61))
        assert servers[1].stop() == 0
    finally:
        for server in servers:
            server.process.kill()


# docs/reference/commands.md: redo


def test_redo_looks_in_the_current_folder_and_not_in_its_subfolders(real_server: ServerProcess, files: Path) -> None:
    (files / "made").mkdir()
    assert run(real_server, files, "stylize", "p.png", "s.png", "-o", "made/o.png", *FAST).returncode == 0
    again = ("redo", "made/o.png", "-o", "again.png", "-q")
    done = run(real_server, files, *again)
    assert done.returncode == 0, done.stderr
    assert (files / "again.png").read_bytes() == (files / "made/o.png").read_bytes()
    (files / "sources").mkdir()
    for name in ("p.png", "s.png"):
        shutil.move(files / name, files / "sources" / name)
    for where in ((), ("--from", ".")):
        assert "not found by their hash: p.png, s.png" in one_line(run(real_server, files, *again, *where))
    assert run(real_server, files, *again, "--from", "sources").returncode == 0


def test_redo_looks_among_the_servers_uploads(real_server: ServerProcess, tmp_path: Path, png: Png) -> None:
    (tmp_path / "p.png").write_bytes(png(54, 42, seed=4))
    (tmp_path / "s.png").write_bytes(png(58, 42, seed=5))
    assert run(real_server, tmp_path, "stylize", "p.png", "s.png", "-o", "o.png", *FAST).returncode == 0
    data = [(tmp_path / name).read_bytes() for name in ("p.png", "s.png")]
    for name in ("p.png", "s.png"):
        (tmp_path / name).unlink()
    again = ("redo", "o.png", "-o", "again.png", "-q")
    assert "not found by their hash" in one_line(run(real_server, tmp_path, *again))
    with impasto.Client(real_server.address) as client:
        for each in data:
            client.upload(each)
    done = run(real_server, tmp_path, *again)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "o.png").read_bytes()


def test_redo_warns_of_another_number_of_threads(real_server: ServerProcess, files: Path) -> None:
    """And of nothing where it is the same."""
    single = ServerProcess(OMP_NUM_THREADS="1")
    try:
        assert run(single, files, "stylize", "p.png", "s.png", "-o", "one.png", *FAST).returncode == 0
    finally:
        assert single.stop() == 0
    done = run(real_server, files, "redo", "one.png", "-o", "two.png", "-q")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Warning: .*painted with 1 threads?, and this one with 2", done.stderr, re.MULTILINE)
    done = run(real_server, files, "redo", "two.png", "-o", "again.png", "-q")
    assert done.returncode == 0, done.stderr
    assert "was painted with" not in done.stderr
    shown = json.loads(run(real_server, files, "show", "two.png", "--json").stdout)
    assert shown["versions"] == {name: importlib.metadata.version(name) for name in ("impasto", "torch")}


async def test_redo_warns_of_a_picture_that_its_time_limit_ended(service: Any, files: Path) -> None:
    """It will have all its steps, as asked for at first."""
    async with service(FakeWorker(step_s=0.02)) as running, impasto.AsyncClient(running.running.address) as client:
        limited = ("--size", "48", "--steps", "9998", "--time-limit", "1", "--on-deadline", "return-best", "-q", "--json")
        done = await command(running, files, "stylize", "p.png", "s.png", "-o", "o.png", *limited)
        assert done.returncode == 0, done.stderr
        painted = json.loads(done.stdout)
        assert painted["stop_reason"] == "deadline"
        done = await command(running, files, "redo", "o.png", "-o", "again.png", "-q", "--timeout", "0.5")
        assert done.returncode == 1
        warning = f"Warning: its time limit ended it after {painted['step']} steps; the new picture will have all its steps"
        assert done.stderr.splitlines()[0] == warning
        assert [job.steps async for job in client.jobs()] == [9998, 9998]


# docs/reference/commands.md: jobs, stylize


@pytest.mark.parametrize("watching", [("watch",), ("result", "--wait", "-o", "o.png")], ids=lambda words: words[0])
async def test_a_watch_that_is_interrupted_leaves_the_job(
    service: Any, files: Path, png: Png, watching: tuple[str, ...]
) -> None:
    """Ctrl-C ends the command with 130."""
    async with service(FakeWorker(hang=True)) as running, impasto.AsyncClient(running.running.address) as client:
        job = await client.submit(png(), png(seed=1), **ENDLESS)
        with started(running, files, "jobs", *watching, job.job_id) as process:
            assert await settles(lambda: watchers(running) == 1)
            process.send_signal(signal.SIGINT)
            _, said = await asyncio.to_thread(process.communicate, timeout=120)
        assert (process.returncode, said.strip()) == (130, f"Interrupted. Job {job.job_id} goes on.")
        assert await settles(lambda: watchers(running) == 0)
        assert (await job.info()).state == "running"
        await job.cancel()


async def test_a_wait_that_times_out_leaves_the_job(service: Any, files: Path, png: Png) -> None:
    async with service(FakeWorker(hang=True)) as running, impasto.AsyncClient(running.running.address) as client:
        job = await client.submit(png(), png(seed=1), **ENDLESS)
        done = await command(running, files, "jobs", "result", job.job_id, "--wait", "--timeout", "1", "-o", "o.png")
        assert done.returncode == 1
        assert "the job continues" in one_line(done)
        assert not (files / "o.png").exists()
        assert await settles(lambda: watchers(running) == 0)
        assert (await job.info()).state == "running"
        await job.cancel()


async def test_a_watch_in_json_has_a_line_for_every_step_start_and_pause_and_one_for_the_end(
    service: Any, files: Path, png: Png
) -> None:
    """Of a job that waits for another one, and is paused and resumed."""
    worker = FakeWorker(hang=True)
    async with (
        service(worker, max_running_jobs=1) as running,
        impasto.AsyncClient(running.running.address) as client,
    ):
        before = await client.submit(png(), png(seed=1), **ENDLESS)
        assert await settles(lambda: worker.commands)
        worker.hang, worker.step_s = False, 0.05
        job = await client.submit(png(), png(seed=1), **SMALL, steps=40)
        with started(running, files, "jobs", "watch", job.job_id, "--json") as process:
            assert process.stdout
            assert await settles(lambda: watchers(running) == 1)
            await before.cancel()
            lines = [json.loads(await asyncio.to_thread(process.stdout.readline)) for _ in range(3)]
            await job.pause()
            while "paused" not in lines[-1]:
                lines.append(json.loads(await asyncio.to_thread(process.stdout.readline)))
            worker.step_s = 0.001
            await job.resume()
            rest, said = await asyncio.to_thread(process.communicate, timeout=120)
        lines += [json.loads(line) for line in rest.splitlines()]
        assert (process.returncode, said) == (0, "")
    kinds = ("started", "paused", "step", "ended")
    told = [next(kind for kind in kinds if kind in line) for line in lines]
    done = told.index("paused") - 1
    assert told == ["started", *["step"] * done, "paused", "started", *["step"] * (40 - done), "ended"]
    assert [line["step"] for line in lines if "step" in line] == list(range(1, 41))
    assert (lines[0]["after_step"], lines[done + 1]["after_step"], lines[done + 2]["after_step"]) == (0, done, done)
    assert lines[done + 1]["paused"] == "requested"
    assert lines[-1]["ended"] == "succeeded"
    assert lines[-1]["job"]["job_id"] == job.job_id


async def test_stylize_cancels_its_job_at_its_timeout(service: Any, files: Path) -> None:
    async with service(FakeWorker(hang=True)) as running, impasto.AsyncClient(running.running.address) as client:
        done = await command(running, files, "stylize", "p.png", "s.png", "-o", "o.png", "--timeout", "1", *FAST)
        assert done.returncode == 1
        assert "the job was cancelled" in one_line(done)
        assert [job.state async for job in client.jobs()] == ["cancelled"]


async def test_a_folder_for_previews_gets_one_every_ten_steps(service: Any, files: Path) -> None:
    async with service(FakeWorker(step_s=0.08)) as running:
        options = ("--preview-dir", "pv", "--size", "48", "--steps", "30", "--levels", "1", "-q")
        done = await command(running, files, "stylize", "p.png", "s.png", "-o", "o.png", *options)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (files / "pv").iterdir()) == [f"step-000{step}.jpg" for step in (10, 20, 30)]
    assert (files / "pv/step-00020.jpg").read_bytes() == b"preview 20"


async def test_a_short_job_has_a_preview_of_its_picture(service: Any, files: Path) -> None:
    async with service(FakeWorker()) as running:
        options = ("--preview-dir", "pv", "--size", "48", "--steps", "3", "--levels", "1", "-q")
        done = await command(running, files, "stylize", "p.png", "s.png", "-o", "o.png", *options)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in (files / "pv").iterdir()] == ["step-00003.jpg"]
    assert (files / "pv/step-00003.jpg").read_bytes().startswith(b"\xff\xd8")


# docs/reference/commands.md: health, weights


@pytest.mark.parametrize("option", ["--server", "--http"])
def test_health_waits_no_longer_than_its_timeout(tmp_path: Path, option: str) -> None:
    """For somebody who takes the call and says nothing."""
    accepted: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as open_until_the_end:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    open_until_the_end.enter_context(silent.accept()[0])
                    accepted.append(time.monotonic())

        threading.Thread(target=accept, daemon=True).start()
        done = run(None, tmp_path, "health", option, f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "1")
        ended = time.monotonic()
        silent.shutdown(socket.SHUT_RDWR)
    assert done.returncode == 1
    assert one_line(done)
    assert 0.5 < ended - accepted[0] < 3


def test_verify_names_the_damaged_file_and_checks_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from impasto_engine.weights import records

    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path))
    paths = {}
    for name in ("first", "second", "third"):
        record = records.Record(name, "vgg16", "", "test", "", (0.0,) * 3, (1.0,) * 3, 1.0)
        paths[name] = records.write(record, {"features.0.bias": torch.zeros(64)})
    data = bytearray(paths["second"].read_bytes())
    data[-1] ^= 1
    paths["second"].write_bytes(bytes(data))
    done = CliRunner().invoke(cli, ["weights", "verify"])
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["first", "third"]
    assert all(line.endswith(" OK") for line in done.stdout.splitlines())
    assert len(done.stderr.splitlines()) == 1
    assert str(paths["second"]) in done.stderr
    assert CliRunner().invoke(cli, ["weights", "verify", "first", "third"]).exit_code == 0


# docs/howto/docker.md

DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOCKER = (ROOT / "docs/howto/docker.md").read_text()


def test_the_table_of_build_arguments_is_the_dockerfiles() -> None:
    """Their names and defaults; one that stands there twice has one default."""
    found = re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\s*ARG\b", DOCKERFILE, re.MULTILINE | re.IGNORECASE)) > 5
    arguments: dict[str, str] = {}
    for name, default in found:
        assert arguments.setdefault(name, default.strip('"')) == default.strip('"'), name
    table = DOCKER.partition("| Build argument")[2].partition("\n\n")[0]
    written: dict[str, str] = {}
    for row in table.splitlines()[2:]:
        names, defaults = (re.findall(r"`([^`]*)`", cell) for cell in row.split("|")[1:3])
        assert defaults or row.split("|")[2].strip() == "none"
        written |= dict(zip(names, defaults or [""] * len(names), strict=True))
    assert written == arguments


def test_user_ports_and_health_check_are_the_dockerfiles() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    (exposed,) = re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)
    (interval,) = re.findall(r"^HEALTHCHECK .*--interval=(\d+)s", DOCKERFILE, re.MULTILINE)
    (folder,) = re.findall(r"IMPASTO_DATA_DIR=([^\s\\]+)", DOCKERFILE)
    port, metrics = exposed.split()
    text = " ".join(DOCKER.split())
    assert set(re.findall(r"\b(?:user|uid) (\d+)", text)) == {user}
    assert f"runs as user {user}, and serves on port {port}." in text
    assert f"--publish {port}:{port}" in text
    assert f"Port {metrics} (metrics, probes) is not published here" in text
    assert f"the port in `IMPASTO_METRICS` ({metrics} in the image) every {interval} s" in text
    assert f"mount a volume at `{folder}` (`IMPASTO_DATA_DIR`), writable by uid {user}" in text
    for name, number in (("IMPASTO_LISTEN", port), ("IMPASTO_METRICS", metrics)):
        assert re.search(rf"{name}=\S+:{number}\b", DOCKERFILE)
