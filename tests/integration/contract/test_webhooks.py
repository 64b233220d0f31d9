"""The end of a job reaches its webhook: signed, at least once, under one id, whatever dies in between."""

# ruff: noqa: F811 - fixtures of other modules
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

import impasto
from impasto.v1 import style_transfer_pb2 as pb
from impasto_server.app import StartError
from impasto_server.config import ConfigError, ServerConfig
from tests.integration.contract.test_operations import value
from tests.integration.contract.test_service import fails
from tests.integration.contract.test_tls import tls  # noqa: F401 - a fixture
from tests.unit.server.fakes import FakeWorker

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of these tests
FAST = {"size_px": 48, "steps": 3, "levels": 1}


class Receiver:
    """An HTTPS server that notes what it is told, and answers with given statuses first, then with 204."""

    def __init__(self, tls: dict[str, str], port: int = 0, statuses: list[int] | None = None, location: str = "") -> None:
        self.told: list[tuple[dict[str, str], bytes]] = []
        self.statuses = statuses or []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.told.append(({name.lower(): text for name, text in self.headers.items()}, body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                if location:
                    self.send_header("location", location)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls["server"], tls["server_key"])
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/hook?token=private"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    async def wait(self, count: int, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while len(self.told) < count:
            assert time.monotonic() < deadline, f"told {len(self.told)} times, not {count}"
            await asyncio.sleep(0.02)


@contextmanager
def receiving(tls: dict[str, str], **options: Any) -> Iterator[Receiver]:
    receiver = Receiver(tls, **options)
    try:
        yield receiver
    finally:
        receiver.close()


@pytest.fixture
def settings(tmp_path: Path, tls: dict[str, str]) -> Callable[[int], dict[str, Any]]:
    (tmp_path / "secret").write_text(SECRET + "\n")

    def make(port: int) -> dict[str, Any]:
        return {
            "webhook_hosts": f"127.0.0.1:{port}",
            "webhook_secret": str(tmp_path / "secret"),
            "webhook_ca": tls["ca"],
            "webhook_retry_s": 0.05,
        }

    return make


def verified(told: tuple[dict[str, str], bytes]) -> dict[str, Any]:
    """Return a message whose signature is right."""
    headers, body = told
    found: dict[str, Any] = Verifier(SECRET).verify(body, headers)
    return found


async def test_a_jobs_end_is_told_signed_and_without_pictures(service: Any, spec: Any, tls: Any, settings: Any) -> None:
    """As Standard Webhooks' own library verifies it; failures and cancellations too."""
    with receiving(tls) as receiver:
        async with service(FakeWorker(), **settings(receiver.port)) as running:
            made = spec()
            made.webhook, made.content.name = receiver.url, "cat.png"
            made.labels["album"] = "norway"
            job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made, request_id="mine"))).job
            await receiver.wait(1)
            message = verified(receiver.told[0])
            assert message["type"] == "job.succeeded"
            data = message["data"]
            async with impasto.AsyncClient(running.running.address) as client:
                known = (await client.job(job.job_id).info()).to_dict()
            for name in ("job_id", "request_id", "state", "step", "width_px", "labels", "stop_reason", "inputs", "losses"):
                told = known[name] if name != "inputs" else [dict(item) for item in known[name]]
                assert data[name] == told, name
            assert len(receiver.told[0][1]) < 5000
            assert receiver.told[0][0]["webhook-id"] == f"msg_{job.job_id}"
            running.worker.fail_with = ("ENGINE_ERROR", "a fault")
            await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made))
            await receiver.wait(2)
            assert verified(receiver.told[1])["data"]["error_reason"] == "ENGINE_ERROR"
            await asyncio.sleep(0.5)
            assert len(receiver.told) == 2
            assert value(running.running.metrics, "impasto_webhooks_total", outcome="delivered") == 2
            assert value(running.running.metrics, "impasto_webhooks_pending") == 0


async def test_redirects_are_not_followed(service: Any, spec: Any, tls: Any, settings: Any) -> None:
    """They could lead past the list of hosts; the message is tried again later."""
    with receiving(tls) as other, receiving(tls, statuses=[302, 307], location=other.url) as receiver:
        async with service(FakeWorker(), **settings(receiver.port)) as running:
            made = spec()
            made.webhook = receiver.url
            await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made))
            await receiver.wait(3)
            assert other.told == []
            assert len({headers["webhook-id"] for headers, _ in receiver.told}) == 1


async def test_a_receiver_that_is_gone_or_never_confirms_is_given_up(
    service: Any,
    spec: Any,
    tls: Any,
    settings: Any,
) -> None:
    """410 at once, others after the operator's time."""
    with receiving(tls, statuses=[410] + [500] * 50) as receiver:
        async with service(FakeWorker(), **settings(receiver.port), webhook_give_up_s=0.5) as running:
            made = spec()
            made.webhook = receiver.url
            for count in (1, 2):
                await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made))
                while value(running.running.metrics, "impasto_webhooks_total", outcome="given_up") < count:
                    await asyncio.sleep(0.02)
            assert value(running.running.metrics, "impasto_webhooks_pending") in (0, 1)
            assert len(receiver.told) >= 3
            assert value(running.running.metrics, "impasto_webhooks_total", outcome="delivered") == 0


async def test_urls_that_are_not_allowed_are_refused_before_the_job_is_accepted(service: Any, spec: Any, settings: Any) -> None:
    """By name; and everywhere if the operator allows none."""
    made = spec()
    made.webhook = "https://evil.example/"
    async with service() as running:
        _, _, violations = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=made)))
        assert "allowed no hosts" in violations["webhook"]
    async with service(FakeWorker(), **settings(1)) as running:
        _, _, violations = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=made)))
        assert "evil.example:443, which the server's operator has not allowed" in violations["webhook"]


async def test_a_server_that_cannot_sign_does_not_start(service: Any, tmp_path: Path, settings: Any) -> None:
    """The error names the setting."""
    with pytest.raises(ConfigError, match="webhook_hosts needs webhook_secret"):
        ServerConfig(webhook_hosts="x")
    for text, said in (
        ("", "is empty"),
        ("whsec_", "secret 1 in .* has 0 bytes; Standard Webhooks asks for 24 to 64"),
        ("whsec_???", "must have secrets"),
        (f"{SECRET}\nwhsec_{'a' * 31}", "webhook_secret: secret 2 in .* has 23 bytes"),
        (f"whsec_{'a' * 88}", "secret 1 in .* has 66 bytes"),
    ):
        (tmp_path / "secret").write_text(text)
        with pytest.raises(StartError, match=said):
            async with service(FakeWorker(), **settings(1)):
                pass
    (tmp_path / "secret").unlink()
    with pytest.raises(StartError, match="webhook_secret: .* cannot be read"):
        async with service(FakeWorker(), **settings(1)):
            pass


@asynccontextmanager
async def process(settings: dict[str, Any], step_s: float = 0.001, failpoint: str = "") -> AsyncIterator[tuple[str, Any]]:
    """Run the service in a process; it is killed at the end if it still runs."""
    environment = {**os.environ, **({"IMPASTO_FAILPOINT": failpoint} if failpoint else {})}
    started = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "tests.integration.contract.fake_server", json.dumps(settings), str(step_s)],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    assert started.stdout is not None
    try:
        yield (await started.stdout.readline()).decode().strip(), started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.send_signal(signal.SIGKILL)
        await started.communicate()


async def test_an_end_is_told_though_the_receiver_fails_and_dies_and_the_server_is_killed(
    tmp_path: Path,
    png: Any,
    tls: Any,
    settings: Any,
) -> None:
    """Two failures, then the receiver is gone, then the server is killed -9; both come back: one id throughout."""
    receiver = Receiver(tls, statuses=[500, 503])
    port, url = receiver.port, receiver.url
    config = {**settings(port), "data_dir": str(tmp_path / "data")}
    async with process(config) as (address, server):
        async with impasto.AsyncClient(address) as client:
            job = await client.submit(png(), png(seed=1), webhook=url, **FAST)
            await receiver.wait(2)
            receiver.close()
            await job.result()
        await asyncio.sleep(0.3)
        server.kill()
        await server.wait()
    first = receiver.told
    assert len(first) == 2
    with receiving(tls, port=port) as again:
        async with process(config):
            await again.wait(1)
            await asyncio.sleep(0.5)
        ids = {headers["webhook-id"] for headers, _ in (*first, *again.told)}
        assert ids == {f"msg_{job.job_id}"}
        assert {body for _, body in (*first, *again.told)} == {first[0][1]}
        assert verified(again.told[0])["data"]["state"] == "succeeded"
        async with process(config):
            await asyncio.sleep(0.6)
        assert len(again.told) == 1  # it was confirmed


@pytest.mark.parametrize("where", ["state.before_commit", "webhook.before_commit"])
async def test_no_end_is_lost_wherever_the_server_is_killed(
    tmp_path: Path,
    png: Any,
    tls: Any,
    settings: Any,
    where: str,
) -> None:
    """The row is written in the transaction that ends the job: a job that has ended has it, one that has not ends again."""
    with receiving(tls) as receiver:
        config = {**settings(receiver.port), "data_dir": str(tmp_path / "data")}
        ids = []
        for count in (1, 3):
            async with process(config, failpoint=f"{where}:{count}") as (address, server):
                with contextlib.suppress(impasto.ImpastoError):
                    async with impasto.AsyncClient(address, patience_s=0) as client:
                        ids.append((await client.submit(png(), png(seed=1), webhook=receiver.url, **FAST)).job_id)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.5):
                        await server.wait()
        async with process(config) as (address, _), impasto.AsyncClient(address) as client:
            states = {}
            for job_id in ids:
                with contextlib.suppress(impasto.JobFailed):
                    await client.job(job_id).result(20)
                states[job_id] = (await client.job(job_id).info()).state
            deadline = time.monotonic() + 10
            while {verified(told)["data"]["job_id"] for told in receiver.told} != set(ids):
                assert time.monotonic() < deadline, (ids, len(receiver.told))
                await asyncio.sleep(0.05)
        for told in receiver.told:
            data = verified(told)["data"]
            assert data["state"] == states[data["job_id"]]
