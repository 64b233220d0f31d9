"""The Ray launcher over real Ray clusters on loopback: placing, and everything that can be killed or frozen (make test-ray).

Times in these tests are limits of waiting, far above what was measured; the measurements are printed, and are in docs/lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import impasto
from impasto_server.cluster.launcher import LauncherError
from impasto_server.cluster.ray_launcher import RayLauncher
from tests.conftest import ServerProcess
from tests.joining import Joining, until

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
TUNED = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
    "worker_niceness": 0,
}
"""A host that says nothing is dead after some 4 s; deploy/ray sets more patient values. Ray's niceness is 15."""
SILENCE_S = 3.0
"""What the server's stream calls a loss."""
NODES = 3
Make = Callable[..., Awaitable[RayLauncher]]


def told(what: str, seconds: float) -> None:
    print(f"RAYTIME {what}: {seconds:.2f} s")


class TestCluster:
    """A head without devices, and nodes of two devices. Everything runs in the main thread, as Ray's class needs it."""

    __test__ = False

    def __init__(self, port: int | None = None) -> None:
        from ray.cluster_utils import Cluster

        start = time.monotonic()
        head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": False, "_system_config": TUNED}
        if port:
            head["gcs_server_port"] = port
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        told("head started", time.monotonic() - start)
        self.nodes: dict[int, Any] = {}
        self.fill()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    @property
    def control_store(self) -> psutil.Process:
        return psutil.Process(self.cluster.head_node.all_processes["gcs_server"][0].process.pid)

    def fill(self, count: int = NODES) -> None:
        """Replace nodes that tests have killed."""
        for raylet in list(self.nodes):
            if not psutil.pid_exists(raylet) or psutil.Process(raylet).status() == psutil.STATUS_ZOMBIE:
                self.forget(raylet)
        while len(self.nodes) < count:
            start = time.monotonic()
            node = self.cluster.add_node(num_cpus=2, num_gpus=2)
            told("node added", time.monotonic() - start)
            self.nodes[node.all_processes["raylet"][0].process.pid] = node

    def forget(self, raylet: int) -> None:
        """Clear away what is left of a dead node."""
        with contextlib.suppress(AssertionError):
            self.cluster.remove_node(self.nodes.pop(raylet), allow_graceful=False)

    def processes(self, raylet: int) -> list[psutil.Process]:
        """Return all processes of a node: the raylet, Ray's workers and agents, guards and workers."""
        process = psutil.Process(raylet)
        return [process, *process.children(recursive=True)]

    def shutdown(self) -> None:
        self.cluster.shutdown()


def send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@pytest.fixture(scope="module")
def shared() -> Iterator[TestCluster]:
    """Return the cluster of this module."""
    cluster = TestCluster()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def cluster(shared: TestCluster) -> TestCluster:
    """Return the cluster with three live nodes."""
    shared.fill()
    return shared


@pytest.fixture
async def joining() -> AsyncIterator[Joining]:
    """Return the server's side of stand-in workers; at the end of each test no process of one may be left."""
    joining = Joining()
    await joining.open()
    yield joining
    await joining.close()
    await until(lambda: not joining.orphans(), 15, joining.orphans)


@pytest.fixture
async def make(joining: Joining) -> AsyncIterator[Make]:
    """Return a function that starts launchers, which are stopped at the end."""
    made: list[RayLauncher] = []

    async def launcher(address: str, *extra: str, start: bool = True, **options: Any) -> RayLauncher:
        made.append(RayLauncher(address, joining.command(*extra), **{"grace_s": 1.0, **options}))
        if start:
            await made[-1].start(joining.on_died, joining.on_nodes)
        return made[-1]

    yield launcher
    for each in made:
        await each.stop()
    await asyncio.sleep(0.2)


def free(joining: Joining) -> int:
    return sum(node.devices_free for node in joining.nodes if node.alive)


async def placed(launcher: RayLauncher, joining: Joining, *names: str) -> None:
    for name in names:
        launcher.place(name)
    await until(lambda: all(joining.live(name) for name in names), 30)


async def test_workers_are_placed_and_ended(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """Each gets one device of its own; a seventh waits for one of six; an end frees the device and reports nothing."""
    start = time.monotonic()
    launcher = await make(cluster.address)
    told("launcher connected", time.monotonic() - start)
    start = time.monotonic()
    await placed(launcher, joining, "w0")
    told("first worker joined", time.monotonic() - start)
    names = [f"w{number}" for number in range(6)]
    await placed(launcher, joining, *names)
    told("six workers joined", time.monotonic() - start)
    devices = {(joined.raylet, joined.gpus) for joined in joining.all}
    assert len(devices) == len(joining.all) == 6
    assert {raylet for raylet, _ in devices} == set(cluster.nodes)
    await until(lambda: len(joining.nodes) >= 3 and free(joining) == 0, 10)
    assert sum(node.devices_total for node in joining.nodes if node.alive) == 6
    launcher.place("w6")
    launcher.place("w6")
    await asyncio.sleep(1.5)
    assert not joining.live("w6")
    start = time.monotonic()
    launcher.end("w0")
    told("end: worker gone", await until(lambda: not joining.live("w0"), 10))
    await until(lambda: joining.live("w6"), 30)
    told("end: its device used by another", time.monotonic() - start)
    assert joining.died == []
    await launcher.stop()
    assert joining.orphans() == []


async def test_a_stubborn_worker_is_killed_before_its_device_is_free(
    cluster: TestCluster, joining: Joining, make: Make
) -> None:
    """The name can be placed again at once: two processes of one name never hold one device."""
    launcher = await make(cluster.address, "--stubborn")
    await placed(launcher, joining, "a")
    first = joining.one("a")
    launcher.end("a")
    launcher.place("a")
    await until(lambda: any(joined.pid != first.pid for joined in joining.live("a")), 30)
    await until(lambda: first.lost, 10)
    second = joining.one("a")
    assert (second.raylet, second.gpus) != (first.raylet, first.gpus) or second.at > (first.lost or 0)
    assert joining.died == []


async def test_names_that_were_ended_while_they_waited_never_start(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """Also where no device is free."""
    launcher = await make(cluster.address)
    names = [f"w{number}" for number in range(6)]
    await placed(launcher, joining, *names)
    launcher.place("late")
    await asyncio.sleep(0.5)
    launcher.end("late")
    await asyncio.sleep(0.5)
    launcher.end("w0")
    await until(lambda: free(joining) == 1, 20)
    await asyncio.sleep(1)
    assert not any(joined.name == "late" for joined in joining.all)


async def test_a_killed_worker_and_a_killed_actor_are_reported(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """Once each, with the cause; of the actor's worker nothing is left."""
    launcher = await make(cluster.address)
    await placed(launcher, joining, "a", "b")
    os.kill(joining.one("a").pid, signal.SIGKILL)
    told("kill -9 of a worker: Died", await until(lambda: joining.died, 20))
    assert joining.died == [("a", "killed by signal 9")]
    worker = psutil.Process(joining.one("b").pid)
    guard, _, actor = worker.parents()[:3]
    os.kill(actor.pid, signal.SIGKILL)
    start = time.monotonic()
    told("kill -9 of an actor: worker gone", await until(lambda: not joining.live("b"), 20))
    await until(lambda: len(joining.died) == 2, 20)
    told("kill -9 of an actor: Died", time.monotonic() - start)
    assert joining.died[1][0] == "b"
    assert "actor died" in joining.died[1][1]
    await until(lambda: not guard.is_running(), 10)
    await placed(launcher, joining, "a", "b")
    assert len(joining.died) == 2


async def test_a_killed_guard_ends_its_worker(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """The worker's end is reported as any other, and nothing is left."""
    launcher = await make(cluster.address)
    await placed(launcher, joining, "a")
    psutil.Process(joining.one("a").pid).parents()[1].kill()
    await until(lambda: joining.died and not joining.live("a"), 20)
    assert joining.died == [("a", "killed by signal 9")]


async def test_a_killed_raylet_takes_its_workers_along(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """Ray may give the host's devices to others, so nothing of it may run on; the others work on."""
    launcher = await make(cluster.address)
    await placed(launcher, joining, *(f"w{number}" for number in range(4)))
    raylet = joining.one("w0").raylet
    lost = {joined.name for joined in joining.all if joined.raylet == raylet}
    os.kill(raylet, signal.SIGKILL)
    start = time.monotonic()
    told("kill -9 of a raylet: workers gone", await until(lambda: not any(joining.live(name) for name in lost), 30))
    await until(lambda: len(joining.died) == len(lost), 60)
    told("kill -9 of a raylet: Died", time.monotonic() - start)
    assert {name for name, _ in joining.died} == lost
    await placed(launcher, joining, *lost)
    told("kill -9 of a raylet: workers elsewhere", time.monotonic() - start)
    await until(lambda: sum(node.alive for node in joining.nodes) == NODES - 1, 30)
    told("kill -9 of a raylet: node table", time.monotonic() - start)


async def test_a_killed_host_is_replaced(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """Its workers are placed on others as soon as the server sees their streams end; a host that is added is used."""
    launcher = await make(cluster.address)
    await placed(launcher, joining, *(f"w{number}" for number in range(4)))
    raylet = joining.one("w0").raylet
    lost = {joined.name for joined in joining.all if joined.raylet == raylet}
    send(cluster.processes(raylet), signal.SIGKILL)
    start = time.monotonic()
    told("kill -9 of a host: stream", await until(lambda: not any(joining.live(name) for name in lost), 20))
    for name in lost:
        launcher.end(name)
    await placed(launcher, joining, *lost)
    told("kill -9 of a host: workers elsewhere", time.monotonic() - start)
    assert joining.died == []
    await until(lambda: sum(node.alive for node in joining.nodes) == NODES - 1, 30)
    told("kill -9 of a host: node table", time.monotonic() - start)
    cluster.fill()
    await placed(launcher, joining, "w4", "w5")
    assert {joined.raylet for name in ("w4", "w5") for joined in joining.live(name)} <= set(cluster.nodes)


async def test_a_killed_host_is_reported(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """Also to a server that sees no streams."""
    launcher = await make(cluster.address)
    await placed(launcher, joining, *(f"w{number}" for number in range(4)))
    raylet = joining.one("w0").raylet
    lost = {joined.name for joined in joining.all if joined.raylet == raylet}
    send(cluster.processes(raylet), signal.SIGKILL)
    told("kill -9 of a host: Died", await until(lambda: len(joining.died) == len(lost), 60))
    assert {name for name, _ in joining.died} == lost


async def test_a_frozen_host_is_fenced(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """After 3 s of silence the server ends and places anew: the others take over, and what wakes later ends by itself."""
    launcher = await make(cluster.address)
    await placed(launcher, joining, "w0", "w1", "w2")
    raylet = joining.one("w0").raylet
    frozen = [joined for joined in joining.all if joined.raylet == raylet]
    names = {joined.name for joined in frozen}
    processes = cluster.processes(raylet)
    send(processes, signal.SIGSTOP)
    start = time.monotonic()
    try:
        await until(lambda: all(time.monotonic() - joined.heard > SILENCE_S for joined in frozen), 20)
        told("SIGSTOP of a host: silence noticed", time.monotonic() - start)
        for joined in frozen:
            joined.writer.close()
            launcher.end(joined.name)
            launcher.place(joined.name)
        fresh = lambda name: [joined for joined in joining.live(name) if joined not in frozen]  # noqa: E731
        await until(lambda: all(fresh(name) for name in names), 60)
        told("SIGSTOP of a host: workers elsewhere", time.monotonic() - start)
        assert all(joined.raylet != raylet for name in names for joined in fresh(name))
        await until(lambda: sum(node.alive for node in joining.nodes) == NODES - 1, 90)
        told("SIGSTOP of a host: node table", time.monotonic() - start)
    finally:
        send(processes, signal.SIGCONT)
    start = time.monotonic()
    await until(lambda: not any(psutil.pid_exists(joined.pid) for joined in frozen), 30)
    told("SIGCONT of a host: old workers gone", time.monotonic() - start)
    assert joining.died == []
    await until(lambda: not psutil.pid_exists(raylet) or psutil.Process(raylet).status() == psutil.STATUS_ZOMBIE, 30)
    told("SIGCONT of a host: old raylet gone", time.monotonic() - start)


async def test_a_killed_child_adopts_its_workers(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """Five times over; what was placed, ended or died meanwhile is made up for, and no healthy worker is touched."""
    launcher = await make(cluster.address)
    await placed(launcher, joining, "stays", "dies", "ends")
    stays = joining.one("stays").pid
    for _ in range(5):
        child = launcher.child_pid
        assert child
        os.kill(child, signal.SIGKILL)
        start = time.monotonic()
        await until(lambda: launcher.connected and launcher.child_pid not in (None, child), 30)  # noqa: B023
        told("kill -9 of the child: connected again", time.monotonic() - start)
    child = launcher.child_pid
    assert child
    os.kill(child, signal.SIGKILL)
    await until(lambda: not launcher.connected, 10)
    os.kill(joining.one("dies").pid, signal.SIGKILL)
    launcher.end("ends")
    launcher.place("new")
    start = time.monotonic()
    await until(lambda: joining.died and joining.live("new") and not joining.live("ends"), 30)
    told("kill -9 of the child: made up for what it missed", time.monotonic() - start)
    assert joining.died[0][0] == "dies"
    assert len(joining.died) == 1
    assert joining.one("stays").pid == stays


async def test_a_new_server_ends_the_workers_of_the_one_before(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """And leaves those of other namespaces alone."""
    before = await make(cluster.address)
    other = await make(cluster.address, namespace="other")
    await placed(before, joining, "a", "b")
    await placed(other, joining, "c")
    assert before.child_pid
    before._task.cancel()  # type: ignore[union-attr]
    await until(lambda: before.child_pid is None, 10)
    assert joining.live("a")
    fresh = await make(cluster.address)
    await until(lambda: not joining.live("a") and not joining.live("b"), 10)
    await placed(fresh, joining, "a")
    assert joining.live("c")
    assert joining.died == []
    before._keys.clear()
    before._ending.clear()


async def test_devices_can_be_wanted(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """The request reaches Ray's table, where an autoscaler reads it; a stop takes it back."""
    launcher = await make(cluster.address)
    launcher.want(5)
    script = (
        "import json, ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='error');"
        "from ray.experimental.internal_kv import _internal_kv_get as get;"
        "print(len(json.loads(get(b'autoscaler_resource_request'))))"
    )

    def requested() -> int:
        done = subprocess.run([sys.executable, "-c", script, cluster.address], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    await asyncio.sleep(0.5)
    assert await asyncio.to_thread(requested) == 5
    await launcher.stop()
    assert await asyncio.to_thread(requested) == 0


async def test_workers_can_take_processors(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """Where a cluster has no GPU."""
    launcher = await make(cluster.address, resource="CPU")
    await placed(launcher, joining, "a")
    await until(lambda: joining.nodes and free(joining) == 5, 20)
    assert joining.one("a").device == "cpu"


async def test_another_python_is_refused(cluster: TestCluster, joining: Joining, make: Make) -> None:
    """With both versions, since Ray needs them equal to the patch level."""
    script = "import sys; sys.version_info; import platform; platform.python_version = lambda: '3.11.99'; import ray;"
    script += "import ray._private.utils as u; u.compute_version_info = lambda: (ray.__version__, '3.11.99');"
    script += "import impasto_server.cluster.ray_process as p; sys.exit(p.main(int(sys.argv[1])))"
    launcher = await make(cluster.address, start=False, child=[sys.executable, "-c", script])
    with pytest.raises(
        LauncherError, match=r"runs Ray 2\.\S+ with Python 3\.\S+, this server has Ray 2\.\S+ with Python 3.11.99"
    ):
        await launcher.start(joining.on_died, joining.on_nodes)


async def test_a_cluster_that_is_not_there_is_tried_again(joining: Joining, make: Make, unused_port: int) -> None:
    """The server starts, and can be stopped meanwhile."""
    start = time.monotonic()
    launcher = await make(f"127.0.0.1:{unused_port}")
    told("start without a cluster", time.monotonic() - start)
    launcher.place("a")
    assert not launcher.connected
    await launcher.stop()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_killed_control_store_ends_the_cluster_but_not_the_server(
    joining: Joining, make: Make, unused_port: int
) -> None:
    """Workers go on for about a minute, then end by themselves; a new cluster at the same address is used."""
    cluster = TestCluster(unused_port)
    try:
        launcher = await make(cluster.address)
        await placed(launcher, joining, "a", "b")
        cluster.control_store.kill()
        start = time.monotonic()
        await asyncio.sleep(20)
        assert joining.live("a")
        assert joining.live("b")
        launcher.place("c")
        await until(lambda: not joining.live("a") and not joining.live("b"), 120)
        told("kill -9 of the control store: workers gone", time.monotonic() - start)
        await until(lambda: not launcher.connected, 120)
        told("kill -9 of the control store: child gone", time.monotonic() - start)
    finally:
        cluster.shutdown()
    cluster = TestCluster(unused_port)
    try:
        start = time.monotonic()
        await until(lambda: joining.live("c"), 60)
        told("new control store: worker placed", time.monotonic() - start)
        await until(lambda: len(joining.died) == 2, 30)
        assert {name for name, _ in joining.died} == {"a", "b"}
        await launcher.stop()
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def head(port: int, *options: str) -> Iterator[None]:
    """Run a head as people start it, and end everything that it started."""
    ray = os.path.join(os.path.dirname(sys.executable), "ray")
    command = [ray, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    process = subprocess.Popen([*command, "--object-store-memory=80000000", *options], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        send([each for each in below if each.is_running()], signal.SIGKILL)


async def test_an_autoscaler_brings_the_wanted_hosts(
    joining: Joining, make: Make, unused_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own, with its provider for tests: hosts come when they are wanted, and workers are placed there."""
    host = {"resources": {"GPU": 2, "CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3}
    config = {
        "cluster_name": "test",
        "max_workers": 3,
        "upscaling_speed": 10,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{unused_port}",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "host": host,
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **{f"{when}_commands": [] for when in ("initialization", "setup", "head_setup", "worker_setup")},
        **{f"{where}_start_ray_commands": [] for where in ("head", "worker")},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }
    (tmp_path / "scaling.json").write_text(json.dumps(config))
    monkeypatch.setenv("AUTOSCALER_UPDATE_INTERVAL_S", "1")
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    with head(unused_port, "--num-cpus=0", f"--autoscaling-config={tmp_path / 'scaling.json'}"):
        launcher = await make(f"127.0.0.1:{unused_port}")
        await until(lambda: launcher.connected, 60)
        alive = lambda: sum(node.devices_total for node in joining.nodes if node.alive)  # noqa: E731
        assert alive() == 0
        launcher.want(3)
        told("autoscaler: two wanted hosts", await until(lambda: alive() == 4, 90))
        await placed(launcher, joining, "a", "b", "c")
        await launcher.stop()


async def test_tokens_are_respected(joining: Joining, make: Make, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with the cluster's token places workers; one with another or without one is refused, and told what to set."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "5a" * 32)
    address = f"127.0.0.1:{unused_port}"
    with head(unused_port, "--num-gpus=1"):
        launcher = await make(address)
        await until(lambda: launcher.connected, 60)
        await placed(launcher, joining, "a")
        await launcher.stop()
        monkeypatch.setenv("RAY_AUTH_TOKEN", "00" * 32)
        launcher = await make(address, start=False)
        with pytest.raises(LauncherError, match="refuses this server .RAY_AUTH_MODE is token here.: RAY_AUTH_MODE=token and"):
            await launcher.start(joining.on_died, joining.on_nodes)
        monkeypatch.delenv("RAY_AUTH_MODE")
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        launcher = await make(address, start=False)
        with pytest.raises(LauncherError, match="refuses this server .RAY_AUTH_MODE is disabled here"):
            await launcher.start(joining.on_died, joining.on_nodes)


def worker_processes(address: str) -> dict[str, psutil.Process]:
    """Return the processes of the workers that join at an address, by name."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "worker" in line[:4] and "--name" in line and address in line:
                found[line[line.index("--name") + 1]] = process
    return found


async def test_a_real_server_paints_on_a_ray_cluster(cluster: TestCluster, png: Callable[..., bytes]) -> None:
    """As users start it: workers come by themselves, the job of a killed host continues on another, and nothing is left."""
    options = ["--device", "none", "--worker-listen", "127.0.0.1:0", "--cluster", cluster.address, "--workers", "2"]
    options += ["--worker-device", "cpu", "--checkpoint-interval-s", "0.5"]
    start = time.monotonic()
    server = await asyncio.to_thread(ServerProcess, *options, OMP_NUM_THREADS="1")
    joins = next(found[1] for line in server.log if (found := re.search(r"workers may join at ([^\s,]+)", line)))
    try:
        async with impasto.AsyncClient(server.address) as client:
            await until(lambda: len(worker_processes(joins)) == 2, 60)
            while (await client.health()) != "serving":
                await asyncio.sleep(0.5)
            told("real server: ready after its start", time.monotonic() - start)
            same = {"size_px": 64, "steps": 150, "seed": 3, "optimizer": "adam"}
            whole = await (await client.submit(png(), png(seed=1), **same)).result(120)
            job = await client.submit(png(), png(seed=1), **same)
            while (info := await job.info()).step < 30:
                await asyncio.sleep(0.05)
            send(cluster.processes(raylet_of(worker_processes(joins)[info.device])), signal.SIGKILL)
            start, lost = time.monotonic(), info.device
            while (info := await job.info()).device in ("", lost) and not info.done:
                await asyncio.sleep(0.02)
            told("real server: job of a killed host started elsewhere", time.monotonic() - start)
            assert info.device not in ("", lost)
            result = await job.result(120)
            assert result.job.step == 150
            assert result.image.tobytes() == whole.image.tobytes()
            await until(lambda: len(worker_processes(joins)) == 2, 60)
    finally:
        assert await asyncio.to_thread(server.stop) == 0
    await until(lambda: not worker_processes(joins), 15, lambda: worker_processes(joins))


def raylet_of(process: psutil.Process) -> int:
    """Return the process id of the raylet above a worker."""
    return next(parent.pid for parent in process.parents() if parent.name() == "raylet")
