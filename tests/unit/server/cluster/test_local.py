from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from impasto_server.cluster.launcher import WorkerCommand
from impasto_server.cluster.local import LocalLauncher
from tests.joining import Joining, until

Make = Callable[..., LocalLauncher]


@pytest.fixture
async def joining() -> AsyncIterator[Joining]:
    """Return the server's side of stand-in workers; at the end no process may be left."""
    joining = Joining()
    await joining.open()
    yield joining
    await joining.close()
    await until(lambda: not joining.orphans(), 10)


@pytest.fixture
async def make(joining: Joining) -> AsyncIterator[Make]:
    """Return a function that makes launchers, which are stopped at the end."""
    made: list[LocalLauncher] = []

    def launcher(*extra: str, devices: int = 2) -> LocalLauncher:
        made.append(LocalLauncher(joining.command(*extra), devices, grace_s=0.5))
        return made[-1]

    yield launcher
    for each in made:
        await each.stop()


async def test_workers_join_up_to_the_devices(joining: Joining, make: Make) -> None:
    """The next starts when one is ended; what was ended is not reported, and the hosts' free devices are."""
    launcher = make()
    await launcher.start(joining.on_died, joining.on_nodes)
    for name in ("a", "b", "c"):
        launcher.place(name)
        launcher.place(name)
    await until(lambda: joining.live("a") and joining.live("b"), 10)
    assert len(joining.all) == 2
    assert [(node.devices_total, node.devices_free, node.alive) for node in joining.nodes] == [(2, 0, True)]
    launcher.end("a")
    await until(lambda: joining.live("c"), 10)
    assert joining.live("a") == []
    assert joining.died == []


async def test_a_killed_worker_is_reported_once(joining: Joining, make: Make) -> None:
    """With the cause; its name can be placed again."""
    launcher = make()
    await launcher.start(joining.on_died, joining.on_nodes)
    launcher.place("a")
    await until(lambda: joining.live("a"), 10)
    os.kill(joining.one("a").pid, signal.SIGKILL)
    await until(lambda: joining.died, 10)
    launcher.place("a")
    await until(lambda: joining.live("a"), 10)
    assert joining.died == [("a", "killed by signal 9")]


async def test_a_name_is_free_as_soon_as_it_is_ended(joining: Joining, make: Make) -> None:
    """A worker that ignores SIGTERM does not keep it; the next one is another process, and the end is not reported."""
    launcher = make("--stubborn")
    await launcher.start(joining.on_died, joining.on_nodes)
    launcher.place("a")
    await until(lambda: joining.live("a"), 10)
    first = joining.one("a").pid
    launcher.end("a")
    launcher.place("a")
    await until(lambda: any(joined.pid != first for joined in joining.live("a")), 10)
    await until(lambda: len(joining.live("a")) == 1, 10)
    assert joining.one("a").pid != first
    assert joining.died == []


async def test_names_that_were_ended_before_they_started_do_not_start(joining: Joining, make: Make) -> None:
    """Whether they wait for a device or are being started."""
    launcher = make(devices=1)
    await launcher.start(joining.on_died, joining.on_nodes)
    for name in ("a", "b", "c"):
        launcher.place(name)
    launcher.end("a")
    launcher.end("b")
    launcher.end("never placed")
    await until(lambda: joining.live("c"), 10)
    assert {joined.name for joined in joining.all} <= {"a", "c"}
    assert not joining.live("a")


async def test_a_program_that_fails_is_reported(joining: Joining, make: Make) -> None:
    """With its status, as one that does not exist."""
    launcher = make("--status", "7")
    await launcher.start(joining.on_died, joining.on_nodes)
    launcher.place("a")
    await until(lambda: joining.died, 10)
    assert joining.died == [("a", "exited with status 7")]


async def test_stop_ends_all(joining: Joining, make: Make) -> None:
    """And reports none of it."""
    launcher = make("--stubborn", devices=3)
    await launcher.start(joining.on_died, joining.on_nodes)
    for name in ("a", "b", "c", "d"):
        launcher.place(name)
    await until(lambda: len(joining.all) == 3, 10)
    await launcher.stop()
    assert joining.orphans() == []
    assert joining.died == []


def test_the_command_line_is_that_of_impasto_worker() -> None:
    """With the token's file only where there is one."""
    line = WorkerCommand("host:50052", "/etc/token", "cuda", extra=("--log-format", "json")).line("w1")
    assert line[1:5] == ["-m", "impasto", "worker", "--join"]
    assert line[5:] == [
        *("host:50052", "--token-file", "/etc/token", "--name", "w1", "--device", "cuda", "--once", "--log-format", "json")
    ]
    assert "--token-file" not in WorkerCommand("host:50052").line("w1")


def test_a_launcher_without_devices_is_refused() -> None:
    """It could never start anything."""
    with pytest.raises(ValueError, match="devices must be at least 1"):
        LocalLauncher(WorkerCommand("host:1"), 0)
