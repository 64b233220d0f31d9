from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from impasto_server.cluster import ray_launcher
from impasto_server.cluster.launcher import LauncherError, Node, WorkerCommand
from impasto_server.cluster.ray_connect import check_address
from impasto_server.cluster.ray_launcher import RayLauncher
from impasto_server.cluster.ray_messages import (
    Connected,
    Died,
    End,
    Ended,
    Message,
    Nodes,
    Place,
    Placed,
    Refused,
    Settings,
    Synchronized,
    Want,
    decode,
    encode,
)
from tests.joining import Joining, until

Make = Callable[..., Awaitable[RayLauncher]]
COMMAND = WorkerCommand("host:1", "/token", "cuda", ("--weights", "builtin"), ("program",))
NODE = Node("n1", "host", 2, 1, alive=True)
CHILD = Path(__file__).with_name("ray_child.py")


@pytest.fixture
def seen() -> Joining:
    """Return what keeps a launcher's reports."""
    return Joining()


@pytest.fixture
async def make(tmp_path: Path, seen: Joining) -> AsyncIterator[Make]:
    """Return a function that starts launchers with a stand-in for the child."""
    made: list[RayLauncher] = []

    async def launcher() -> RayLauncher:
        child = [sys.executable, str(CHILD), str(tmp_path)]
        made.append(RayLauncher("host:6379", COMMAND, grace_s=0.2, child=child))
        await made[-1].start(seen.on_died, seen.on_nodes)
        return made[-1]

    yield launcher
    for each in made:
        await each.stop()


def told(folder: Path, kind: type[Any]) -> list[Any]:
    path = folder / "told"
    messages = [decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    return [message for message in messages if isinstance(message, kind)]


def say(folder: Path, *messages: Message) -> None:
    (folder / "new").write_bytes(b"".join(encode(message) for message in messages))
    (folder / "new").rename(folder / "say")


@pytest.mark.parametrize(
    "message",
    [
        Settings("host:1", "space", "abc", "GPU", COMMAND, 5.0),
        Place("key", "näme\n", known=True),
        Synchronized(),
        End("key"),
        Want(3),
        Connected("2.60.0"),
        Refused("no", permanent=True),
        Placed("key"),
        Died("key", "cause"),
        Ended("key"),
        Nodes((NODE,)),
        Nodes(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_come_back_as_they_were(message: Message) -> None:
    """As one line each, whatever is in them."""
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize("line", [b"", b"{}", b"[1,2]", b'["Place",{"name":1,"other":2}]', b'["Other",{}]', b"\xff"])
def test_other_lines_are_no_messages(line: bytes) -> None:
    """And say what they are."""
    with pytest.raises(ValueError, match="not a message"):
        decode(line)


@pytest.mark.parametrize(
    "address", ["ray://host:10001", "host", "host:", ":6379", "host:0", "host:70000", "http://host:6379", ""]
)
def test_wrong_addresses_are_refused(address: str) -> None:
    """Ray's client protocol too, with what to do instead."""
    with pytest.raises(ValueError, match="cluster must be HOST:PORT") as error:
        check_address(address)
    assert ("ray start --address" in str(error.value)) == address.startswith("ray:")
    check_address("host.example:6379")


async def test_a_worker_is_reported_dead_once_and_can_be_placed_again(make: Make, seen: Joining, tmp_path: Path) -> None:
    """Under another key, so that what is said about the earlier one has no effect."""
    launcher = await make()
    launcher.place("a")
    launcher.place("a")
    await until(lambda: told(tmp_path, Place), 10)
    (first,) = told(tmp_path, Place)
    say(tmp_path, Died(first.key, "killed by signal 9"), Died(first.key, "again"), Died("unknown", "x"))
    await until(lambda: seen.died, 10)
    launcher.place("a")
    await until(lambda: len(told(tmp_path, Place)) == 2, 10)
    say(tmp_path, Died(first.key, "late"), Nodes((NODE,)))
    await until(lambda: seen.nodes == [NODE], 10)
    assert seen.died == [("a", "killed by signal 9")]
    assert told(tmp_path, Place)[1].key != first.key


async def test_a_new_child_learns_what_it_missed(make: Make, seen: Joining, tmp_path: Path) -> None:
    """What exists is adopted, what was placed meanwhile is created, what was ended meanwhile is not named."""
    launcher = await make()
    for name in ("stays", "ends"):
        launcher.place(name)
    launcher.want(4)
    await until(lambda: len(told(tmp_path, Place)) == 2 and told(tmp_path, Want), 10)
    say(tmp_path, Nodes((NODE,)))
    await until(lambda: seen.nodes, 10)  # so the answers to Place have arrived too
    before = {message.name: message.key for message in told(tmp_path, Place)}
    (tmp_path / "told").unlink()
    assert launcher.child_pid
    os.kill(launcher.child_pid, signal.SIGKILL)
    await until(lambda: not launcher.connected, 10)
    launcher.end("ends")
    launcher.place("new")
    await until(lambda: told(tmp_path, Synchronized), 10)
    await until(lambda: told(tmp_path, Want) == [Want(4)], 10)
    again = {message.name: message for message in told(tmp_path, Place)}
    assert again.keys() == {"stays", "new"}
    assert again["stays"] == Place(before["stays"], "stays", known=True)
    assert not again["new"].known
    assert seen.died == []


async def test_a_child_that_says_nonsense_is_replaced(make: Make, tmp_path: Path) -> None:
    """As one that says nothing."""
    launcher = await make()
    first = launcher.child_pid
    (tmp_path / "new").write_bytes(b"nonsense\n")
    (tmp_path / "new").rename(tmp_path / "say")
    await until(lambda: launcher.connected and launcher.child_pid not in (None, first), 10)


async def test_a_silent_child_is_replaced(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since Ray may wait for ever."""
    monkeypatch.setattr(ray_launcher, "SILENCE_S", 0.3)
    launcher = await make()
    first = launcher.child_pid
    await until(lambda: launcher.connected and launcher.child_pid not in (None, first), 10)


async def test_a_refusal_ends_the_start_only_if_it_is_permanent(make: Make, tmp_path: Path) -> None:
    """A cluster that is not there yet is tried again until it is."""
    (tmp_path / "refuse").write_text("permanent")
    with pytest.raises(LauncherError, match="the cluster is closed"):
        await make()
    (tmp_path / "refuse").write_text("for now")
    launcher = await make()
    assert not launcher.connected
    launcher.place("a")
    (tmp_path / "refuse").unlink()
    await until(lambda: launcher.connected and told(tmp_path, Place), 10)


async def test_a_stop_ends_all_and_takes_back_what_was_wanted(make: Make, tmp_path: Path) -> None:
    """And waits for the answers, but not for ever."""
    launcher = await make()
    for name in ("a", "b"):
        launcher.place(name)
    launcher.want(2)
    await launcher.stop()
    keys = {message.key for message in told(tmp_path, Place)}
    assert keys <= {message.key for message in told(tmp_path, End)}
    assert told(tmp_path, Want) == [Want(2), Want(0)]
    assert launcher.child_pid is None


async def test_a_stop_does_not_wait_for_hosts_that_never_answer(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how many there are."""
    monkeypatch.setattr(ray_launcher, "STOP_MARGIN_S", 0.1)
    (tmp_path / "never ends").touch()
    launcher = await make()
    launcher.place("a")
    await launcher.stop()
    assert launcher.child_pid is None


def test_wrong_resources_are_refused() -> None:
    """A worker takes one GPU or one processor."""
    with pytest.raises(ValueError, match="resource must be GPU or CPU"):
        RayLauncher("host:6379", COMMAND, resource="TPU")
