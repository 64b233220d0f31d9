"""Builds the server, and shuts it down in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.metadata
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from impasto.installing import needs
from impasto.signals import stopping
from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from impasto_server.api import reflection, validation
from impasto_server.api.health import HealthServicer
from impasto_server.api.interceptor import CallInterceptor, Identify, anybody
from impasto_server.api.limits import Gate
from impasto_server.api.service import StyleTransferService
from impasto_server.auth.tls import ServerTls, TlsError, common_name
from impasto_server.auth.tokens import Principal, TokenFileError, Tokens
from impasto_server.cluster.hub import WorkerHub
from impasto_server.cluster.launcher import LauncherError
from impasto_server.cluster.port import WorkerPort, worker_server
from impasto_server.cluster.setup import manager
from impasto_server.config import MIB, ServerConfig, is_local
from impasto_server.domain.errors import ServiceError
from impasto_server.garbage import collect
from impasto_server.housekeeping import Housekeeping
from impasto_server.jobs.assembly import Assembly, assemble
from impasto_server.observability.http import Operations, Pulse
from impasto_server.observability.metrics import Machine, Method, Metrics
from impasto_server.observability.tracing import Tracing, TracingError, tracing_to
from impasto_server.observability.watchdog import counted_faults
from impasto_server.pictures.decoders import Decoders
from impasto_server.scratch import scratch_folder
from impasto_server.store.base import JobStore
from impasto_server.store.memory import MemoryStore
from impasto_server.store.sqlite import DataError, DurableStore
from impasto_server.store.uploads import Uploads
from impasto_server.web import Web, missing
from impasto_server.webhooks.sender import Sender, WebhookError
from impasto_server.workers.messages import WorkerSettings
from impasto_server.workers.process import ProcessWorker, WorkerHandle

logger = logging.getLogger(__name__)

VERSION = importlib.metadata.version("impasto")
SERVICE = pb.DESCRIPTOR.services_by_name["StyleTransferService"].full_name
LINGER_S = 2.0
"""How long pictures of jobs that ended while draining can still be fetched."""
MAX_CONNECTIONS = 100_000
MAX_STREAMS = 8192
"""Concurrent calls of one connection; further calls wait on the client's side."""
PING_S, PING_TIMEOUT_S = 10.0, 60.0
"""Ping interval of an idle peer, and the time without an answer after which it is dropped. A ping waits behind the bytes in
transit, which takes most of a minute on a slow link."""
MIN_PING_S = 5.0
"""Clients that ping more often than this are disconnected."""
HANDSHAKE_S = 20.0
"""Time that a new connection has for TLS and its first HTTP/2 frame; a silent one keeps a descriptor no longer."""
ENDING_S = 1.0
"""Time in which all calls in progress end with DRAINING."""
STOP_GRACE_S = 2.0
"""Time for responses under way when all jobs have ended."""


class StartError(Exception):
    """The server cannot start; the message says why."""


@dataclass(frozen=True)
class RunningServer:
    """A server that accepts calls.

    Attributes:
        address: HOST:PORT that it listens on.
        jobs: The parts that handle jobs.
        metrics: The metrics.
        worker_address: HOST:PORT for workers on other machines; empty if there is none.
    """

    address: str
    jobs: Assembly
    metrics: Metrics
    worker_address: str = ""


def options(config: ServerConfig) -> list[tuple[str, int]]:
    """Return the channel arguments. Without the two limits on pending requests, a burst of streams is CANCELLED.

    Half of the file descriptors are kept from connections: jobs need them for pictures, checkpoints and the database.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_CONNECTIONS if descriptors == resource.RLIM_INFINITY else min(descriptors // 2, MAX_CONNECTIONS)
    return [
        ("grpc.server_handshake_timeout_ms", round(1000 * HANDSHAKE_S)),
        ("grpc.max_allowed_incoming_connections", most),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.server.max_pending_requests", 1_000_000),
        ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
        ("grpc.http2.min_ping_interval_without_data_ms", round(1000 * MIN_PING_S)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", round(1000 * PING_S)),
        ("grpc.keepalive_timeout_ms", round(1000 * PING_TIMEOUT_S)),
        ("grpc.http2.ping_timeout_ms", round(1000 * PING_TIMEOUT_S)),
        ("grpc.so_reuseport", 0),
    ]


@contextlib.asynccontextmanager
async def serving(config: ServerConfig, workers: Sequence[WorkerHandle]) -> AsyncIterator[RunningServer]:
    """Serve until the block ends, then drain and stop.

    The health service answers at once, and reports SERVING as soon as a worker is ready.

    Raises:
        StartError: If the address is unavailable.
    """
    tls, tokens, tracing = _tls(config), _tokens("tokens", config.tokens), _tracing(config)
    identify = _identify(config, tokens)
    closing = contextlib.ExitStack()
    folder = closing.enter_context(_server_folder(config))
    store = _store(config, folder)
    metrics = Metrics()
    metrics.expect(_methods(), (worker.name for worker in workers))
    closing.enter_context(counted_faults(metrics))
    jobs = assemble(config, store, workers, metrics, tracing)
    gate = Gate(config.max_message_bytes)
    interceptor = CallInterceptor(metrics, identify, tracing, gate)
    server = grpc.aio.server(options=options(config), interceptors=[interceptor], compression=grpc.Compression.NoCompression)
    uploads = Uploads(folder / "uploads", config.retention_s, config.max_message_bytes, config.max_data_mib * MIB)
    decoders = Decoders(preload=validation.__name__)
    closing.callback(decoders.close)
    service = StyleTransferService(jobs.dispatcher, jobs.pool, config, VERSION, uploads, decoders, metrics)
    servicer = _add_services(server, service)
    address = ":".join(map(str, _listen("listen", config.listen, server, tls)))
    web, joining = _web(config, server, closing), _worker_port(config, jobs, metrics, tls)
    metrics.registry.register(Machine(jobs.pool.processes, jobs.pool.gpus))
    operations = _serve_operations(config, metrics, pulse := Pulse())
    housekeeping = Housekeeping(
        jobs, (SERVICE,), servicer, pulse, metrics, VERSION, uploads, gate, tls, tokens, _senders(config, store, metrics)
    )
    await housekeeping.set_health(serving=False)
    await server.start()
    jobs.pool.start()
    await _open(joining)
    tasks = housekeeping.start()
    beating = asyncio.create_task(housekeeping.beat())  # until the end: a draining server is alive
    logger.info("listening on %s%s", address, ", with TLS" if tls else "")
    _warn_if_exposed(config)
    try:
        async with _page(web):
            try:
                yield RunningServer(address, jobs, metrics, joining.address)
            finally:  # before the page ends: its callers wait for their pictures too
                await _drain(servicer, jobs, interceptor)
    finally:
        for task in tasks:  # gauges and webhooks go on while jobs end
            task.cancel()
        await server.stop(STOP_GRACE_S)
        await jobs.shutdown.stop()
        await joining.close()
        beating.cancel()
        if operations is not None:
            await asyncio.to_thread(operations.close)
        await asyncio.to_thread(tracing.stop)
        closing.close()


async def _drain(health: HealthServicer, jobs: Assembly, calls: CallInterceptor) -> None:
    """Report NOT_SERVING, let jobs end, and then end the calls."""
    jobs.shutdown.begin()
    await health.enter_graceful_shutdown()
    if await jobs.shutdown.drain():
        await asyncio.sleep(LINGER_S)
    await calls.end_calls(ENDING_S)


def _add_services(server: grpc.aio.Server, service: StyleTransferService) -> HealthServicer:
    """Add our service and the standard ones to the server; return the health service."""
    pb_grpc.add_StyleTransferServiceServicer_to_server(service, server)
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable(server, (SERVICE, health.SERVICE_NAME))
    return servicer


def _worker_port(config: ServerConfig, jobs: Assembly, metrics: Metrics, tls: ServerTls | None) -> WorkerPort:
    """Return the port for workers on other machines.

    Raises:
        StartError: If the address is unavailable, or the token file or a setting of the cluster cannot be used.
    """
    if not config.worker_listen:
        return WorkerPort()
    tokens = _tokens("worker_tokens", config.worker_tokens)
    hub = WorkerHub(jobs.pool, tokens, VERSION, config.checkpoint_interval_s, metrics, jobs.store.checkpoints)
    server = worker_server(hub)
    host, port = _listen("worker_listen", config.worker_listen, server, tls)
    logger.info("workers may join at %s:%d%s", host, port, ", with TLS" if tls else "")
    address = f"{host}:{port}"
    try:
        return WorkerPort(address, hub, server, manager(config, jobs, address))
    except ValueError as error:
        raise StartError(f"cluster: {error}") from None


async def _open(joining: WorkerPort) -> None:
    """Accept workers.

    Raises:
        StartError: If the cluster can never start any.
    """
    try:
        await joining.open()
    except LauncherError as error:
        raise StartError(f"cluster: {error}") from None


def _listen(name: str, address: str, server: grpc.aio.Server, tls: ServerTls | None) -> tuple[str, int]:
    try:
        port = server.add_secure_port(address, tls.credentials()) if tls else server.add_insecure_port(address)
    except RuntimeError:
        raise StartError(f"{name}: cannot listen on {address}: {_listen_error(address)}") from None
    return address.rpartition(":")[0], port


def _web(config: ServerConfig, server: grpc.aio.Server, closing: contextlib.ExitStack) -> Web | None:
    """Return the page, and listen on the socket that it calls; None if there is none.

    Raises:
        StartError: If a library is missing, or the socket cannot be made.
    """
    if not config.web:
        return None
    if lacking := missing():
        raise StartError(needs("--web", lacking, "web"))
    web = Web(config)
    closing.callback(web.close)
    try:
        server.add_insecure_port(web.target)
    except RuntimeError:
        raise StartError(f"web: cannot listen on {web.target}; is TMPDIR too long a path?") from None
    return web


def _page(web: Web | None) -> contextlib.AbstractAsyncContextManager[None]:
    return web.serving() if web else contextlib.nullcontext()


def _listen_error(address: str) -> str:
    """Return why an address is unavailable, which gRPC does not say."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(place)
            probe.listen()
    except OSError as error:
        return "is another server running?" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
    return "gRPC does not say why"


def _methods() -> list[Method]:
    """Return the contract's methods, and the health service's, as metrics label them."""
    found = []
    for service in (pb.DESCRIPTOR.services_by_name["StyleTransferService"], health_pb2.DESCRIPTOR.services_by_name["Health"]):
        for method in service.methods:
            kind = {(False, False): "unary", (True, False): "client_stream", (False, True): "server_stream"}.get(
                (method.client_streaming, method.server_streaming), "bidi_stream"
            )
            found.append(Method(kind, service.full_name, method.name))
    return found


def _senders(config: ServerConfig, store: JobStore, metrics: Metrics) -> tuple[Sender, ...]:
    """Return what sends webhooks; nothing if the operator allows none.

    Raises:
        StartError: If they cannot be sent.
    """
    if not config.webhook_hosts:
        return ()
    try:
        return (Sender(config, store, metrics),)
    except WebhookError as error:
        raise StartError(str(error)) from None


def _tracing(config: ServerConfig) -> Tracing:
    """Return the tracing.

    Raises:
        StartError: If it is unavailable.
    """
    try:
        return tracing_to(config.otlp_endpoint)
    except TracingError as error:
        raise StartError(str(error)) from None


def _tls(config: ServerConfig) -> ServerTls | None:
    """Return the server's certificate and its check of clients; None without TLS.

    Raises:
        StartError: If a file cannot be used.
    """
    if not config.tls_cert:
        return None
    try:
        authority = Path(config.tls_client_ca) if config.tls_client_ca else None
        return ServerTls(Path(config.tls_cert), Path(config.tls_key), authority)
    except TlsError as error:
        raise StartError(str(error)) from None


def _tokens(name: str, path: str) -> Tokens | None:
    """Return the accepted tokens of a setting, or None if no token is required.

    Raises:
        StartError: If the token file cannot be used.
    """
    if not path:
        return None
    try:
        return Tokens(Path(path))
    except TokenFileError as error:
        raise StartError(f"{name}: {error}") from None


def _identify(config: ServerConfig, tokens: Tokens | None) -> Identify:
    """Return how callers are identified: by token, by the certificate's common name, or all as anonymous."""
    if tokens is not None:
        return lambda context: tokens.principal(_authorization(context))
    return _by_certificate if config.tls_client_ca else anybody


def _warn_if_exposed(config: ServerConfig) -> None:
    """Warn about what others could read or do if the server is reachable from other machines."""
    if config.worker_listen and not is_local(config.worker_listen) and not config.tls_cert:
        logger.warning("workers' tokens and pictures are sent unencrypted: %s has no TLS", config.worker_listen)
    if is_local(config.listen):
        return
    if config.tokens and not config.tls_cert:
        logger.warning("tokens and pictures are sent unencrypted: %s has no TLS; put a TLS proxy in front of it", config.listen)
    elif not config.tokens and not config.tls_client_ca:
        logger.warning("anyone who can reach %s can see and cancel all jobs: no tokens are set up", config.listen)


def _authorization(context: Any) -> str | None:
    return next((str(value) for key, value in context.invocation_metadata() or () if key == "authorization"), None)


def _by_certificate(context: Any) -> Principal:
    pem = context.auth_context().get("x509_pem_cert", [b""])[0]
    name = common_name(pem)
    if not name:
        text = "the client's certificate must have exactly one common name, of at most 64 printable characters"
        raise ServiceError("CERTIFICATE_WITHOUT_NAME", text)
    return Principal(name, admin=False)


def _serve_operations(config: ServerConfig, metrics: Metrics, pulse: Pulse) -> Operations | None:
    if not config.metrics:
        return None
    host, _, port = config.metrics.rpartition(":")
    try:
        operations = Operations(host.strip("[]"), int(port), metrics.registry, pulse)
    except OSError as error:
        raise StartError(f"metrics: cannot listen on {config.metrics}: {error.strerror}") from None
    logger.info("metrics at http://%s:%d/metrics (also /healthz and /readyz)", host, operations.port)
    return operations


@contextlib.contextmanager
def _server_folder(config: ServerConfig) -> Iterator[Path]:
    """Yield the folder of the server's files; a temporary one if nothing is kept."""
    if config.data_folder is not None:
        yield config.data_folder
        return
    with scratch_folder("impasto-server-") as scratch:
        yield scratch


def _store(config: ServerConfig, folder: Path) -> JobStore:
    if config.data_folder is None:
        return MemoryStore(config.retention_s, config.max_ended_jobs, folder, folder / "pictures")
    try:
        return DurableStore(folder, config.retention_s, config.max_ended_jobs, config.max_data_mib * MIB)
    except DataError as error:
        raise StartError(str(error)) from None


async def run(config: ServerConfig, devices: Sequence[str], on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        config: The settings.
        devices: Each gets one worker.
        on_ready: Called with the address once a worker is ready.

    Raises:
        StartError: If the address is unavailable or a worker cannot start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stopping():  # changed files are reloaded without a signal
        loop.add_signal_handler(number, stop.set)
    interval_s, graphs = config.checkpoint_interval_s, config.cuda_graphs
    workers = [ProcessWorker(WorkerSettings(device, config.weights, interval_s, graphs)) for device in devices]
    async with serving(config, workers) as running:
        dispatcher = running.jobs.dispatcher
        collecting = asyncio.create_task(collect(lambda: not dispatcher.queued + dispatcher.running))
        announce = asyncio.create_task(_announce(running, on_ready))
        stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        broken: asyncio.Future[Any] = running.jobs.pool.broken
        await asyncio.wait({stopped, broken}, return_when=asyncio.FIRST_COMPLETED)
        announce.cancel()
        collecting.cancel()
        stopped.cancel()
        if broken.done():
            raise StartError(broken.result())
        logger.info("stopping; a second signal stops at once")
        loop.add_signal_handler(signal.SIGINT, running.jobs.shutdown.cut_grace)
        loop.add_signal_handler(signal.SIGTERM, running.jobs.shutdown.cut_grace)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # a closed terminal does not cut the grace time


async def _announce(running: RunningServer, on_ready: Callable[[str], None]) -> None:
    await running.jobs.pool.ready.wait()
    on_ready(running.address)
