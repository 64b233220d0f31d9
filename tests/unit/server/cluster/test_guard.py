from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from impasto_server.cluster.guard import cause_of, guarded

WORKER = """
import os, pathlib, signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
path = pathlib.Path(sys.argv[1])
path.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
path.with_suffix(".new").rename(path)
time.sleep(600)
"""


def gone(pids: list[int]) -> bool:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def until(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("not within 10 s")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], list[int]]]]:
    """Return a function that starts a guarded worker with a child of its own, and returns the guard and both process ids."""
    started: list[tuple[subprocess.Popen[bytes], list[int]]] = []

    def make(*arguments: str, grace_s: float = 5) -> tuple[subprocess.Popen[bytes], list[int]]:
        path = tmp_path / f"pids{len(started)}"
        command = [sys.executable, "-S", "-c", WORKER, str(path), *arguments]
        guard = subprocess.Popen(guarded(command, grace_s), stdin=subprocess.PIPE, start_new_session=True)
        until(path.exists)
        started.append((guard, [int(pid) for pid in path.read_text().split()]))
        return started[-1]

    yield make
    for guard, pids in started:
        assert guard.stdin
        guard.stdin.close()
        guard.kill()
        guard.wait()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_closed_pipe_ends_the_whole_group(start: Callable[..., tuple[subprocess.Popen[bytes], list[int]]]) -> None:
    """The worker by SIGTERM, and with it what it started; the status says how it ended."""
    guard, pids = start()
    assert guard.stdin
    guard.stdin.close()
    assert cause_of(guard.wait(60)) == "killed by signal 15"
    until(lambda: gone(pids))


def test_a_worker_that_ignores_sigterm_is_killed(start: Callable[..., tuple[subprocess.Popen[bytes], list[int]]]) -> None:
    """After the grace time."""
    guard, pids = start("stubborn", grace_s=0.3)
    assert guard.stdin
    guard.stdin.close()
    assert cause_of(guard.wait(60)) == "killed by signal 9"
    until(lambda: gone(pids))


def test_a_frozen_worker_is_ended(start: Callable[..., tuple[subprocess.Popen[bytes], list[int]]]) -> None:
    """Its group is continued so that SIGTERM arrives."""
    guard, pids = start()
    os.kill(pids[0], signal.SIGSTOP)
    guard.terminate()
    assert cause_of(guard.wait(60)) == "killed by signal 15"
    until(lambda: gone(pids))


def test_the_child_of_a_killed_worker_does_not_outlive_it(
    start: Callable[..., tuple[subprocess.Popen[bytes], list[int]]],
) -> None:
    """The guard ends the rest of the group."""
    guard, pids = start()
    os.kill(pids[0], signal.SIGKILL)
    assert cause_of(guard.wait(10)) == "killed by signal 9"
    until(lambda: gone(pids))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_a_worker_does_not_outlive_its_guard(start: Callable[..., tuple[subprocess.Popen[bytes], list[int]]]) -> None:
    """The kernel kills it when the process that watches is killed."""
    guard, pids = start()
    (inner,) = psutil.Process(guard.pid).children()
    inner.kill()
    assert cause_of(guard.wait(10)) == "killed by signal 9"
    until(lambda: gone(pids[:1]))


def test_the_group_is_ended_although_the_waiting_child_was_killed(
    start: Callable[..., tuple[subprocess.Popen[bytes], list[int]]],
) -> None:
    """As Ray does with an actor's children: the pipe still counts."""
    guard, pids = start()
    guard.kill()
    guard.wait()
    assert not gone(pids[:1])
    assert guard.stdin
    guard.stdin.close()
    until(lambda: gone(pids))


def test_the_status_of_a_worker_is_the_guards() -> None:
    """Also where the command does not exist."""
    reader, writer = os.pipe()  # stays open
    command = [sys.executable, "-S", "-c", "raise SystemExit(3)"]
    assert cause_of(subprocess.run(guarded(command), stdin=reader, check=False).returncode) == "exited with status 3"
    done = subprocess.run(guarded(["/no/such/program"]), stdin=reader, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode().strip()) == (127, "/no/such/program: No such file or directory")
    os.close(reader)
    os.close(writer)
