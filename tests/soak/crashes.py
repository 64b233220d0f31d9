"""Kill a real server and its worker repeatedly while jobs run, and check that no job is lost.

Invariants, whatever is killed and when: every acknowledged job ends exactly once; its picture is bit-identical to that of an
uninterrupted server; its events are numbered without gaps or duplicates for a watcher that reconnects each time; a request id
gives one job.

`make soak` runs the long form; the tests run a few kills of each kind.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import impasto
from impasto.results import Finished, Heartbeat, Snapshot, Step
from impasto_server.failpoints import NAMES, VARIABLE

KINDS = 3
STEPS, SIZE_PX = 40, 64
CHECKPOINT_S = "0.2"
START_LIMIT_S = 120.0
REACH_S = 10.0
"""Time limit for a running server to reach the failpoint where it is to die."""
Picture = bytes


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A server on one port and one folder, across all its restarts."""

    folder: Path
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None
    lives: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, failpoint: str = "") -> None:
        """Start the server, optionally with a failpoint where it will die."""
        command = [sys.executable, "-c", "from impasto.cli import main; main()", "serve", "--listen", self.address]
        command += ["--device", "cpu", "--weights", "builtin", "--data-dir", str(self.folder), "--log-level", "warning"]
        command += ["--checkpoint-interval-s", CHECKPOINT_S, "--grace-s", "0"]
        environment = {**os.environ, VARIABLE: failpoint} if failpoint else dict(os.environ)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=environment)
        self.lives += 1

    def wait_ready(self) -> bool:
        """Wait until the server serves; return False if it died first."""
        deadline = time.monotonic() + START_LIMIT_S
        with impasto.Client(self.address, patience_s=0) as client:
            while time.monotonic() < deadline:
                if self.dead:
                    return False
                with contextlib.suppress(impasto.ImpastoError):
                    if client.health(1.0) == "serving":
                        return True
                time.sleep(0.05)
        raise AssertionError("the server did not start")

    @property
    def dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL the server. Its worker exits on its own."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def kill_worker(self) -> bool:
        """SIGKILL the worker; return False if none is running."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError):
            for pid in children.read_text().split():
                if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(int(pid), signal.SIGKILL)
                    return True
        return False

    def stop(self) -> None:
        """Stop the server with SIGTERM."""
        if self.process is not None and not self.dead:
            self.process.terminate()
            self.process.wait(60)


@dataclass
class Watched:
    """What one client observed of its job."""

    kind: int
    request_id: str
    job_ids: set[str] = field(default_factory=set)
    sequences: list[int] = field(default_factory=list)
    restarts: int = 0
    picture: Picture | None = None
    error: str = ""


def submit(client: impasto.Client, pictures: list[Picture], kind: int, request_id: str) -> impasto.Job:
    """Submit a job of the given kind."""
    content, style = pictures[kind % len(pictures)], pictures[(kind + 1) % len(pictures)]
    init = ("content", "noise")[kind % 2]
    return client.submit(
        content, style, request_id=request_id, size_px=SIZE_PX, steps=STEPS, init=init, seed=kind, levels=1 + kind % 2
    )


def follow(address: str, pictures: list[Picture], seen: Watched) -> None:
    """Act as a client: submit until acknowledged, submit again with the same id, then watch to the end through every crash."""
    try:
        with impasto.Client(address, patience_s=START_LIMIT_S) as client:
            while True:
                try:
                    seen.job_ids.add(submit(client, pictures, seen.kind, seen.request_id).job_id)
                    job = submit(client, pictures, seen.kind, seen.request_id)
                    seen.job_ids.add(job.job_id)
                    break
                except (impasto.Unavailable, impasto.WaitTimeout):
                    time.sleep(0.05)
            last_step = 0
            for event in job.progress(resume_after=0, image=True):
                if isinstance(event, (Snapshot, Heartbeat)):
                    continue
                seen.sequences.append(event.sequence)
                if isinstance(event, Step):
                    seen.restarts += event.step <= last_step
                    last_step = event.step
                if isinstance(event, Finished):
                    seen.picture = event.data
                    seen.error = event.job.error_message
    except Exception as error:
        seen.error = f"{type(error).__name__}: {error}"


def check(seen: Watched, wanted: Picture) -> list[str]:
    """Return all violations in what a client observed."""
    wrong = []
    if len(seen.job_ids) != 1:
        wrong.append(f"{seen.request_id}: {len(seen.job_ids)} jobs for one request id")
    if seen.sequences != list(range(1, len(seen.sequences) + 1)):
        wrong.append(f"{seen.request_id}: gap or duplicate in {seen.sequences}")
    if seen.picture is None:
        wrong.append(f"{seen.request_id}: no picture: {seen.error}")
    elif seen.picture != wanted:
        wrong.append(f"{seen.request_id}: the picture differs from that of an uninterrupted server")
    return wrong


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Yield a temporary folder for one run."""
    with tempfile.TemporaryDirectory(prefix="impasto-soak-") as name:
        yield Path(name)


def reference(pictures: list[Picture], where: Path) -> list[Picture]:
    """Return the pictures of an uninterrupted server, by kind."""
    server = Server(where / "reference", free_port(), where / "reference.log")
    server.start()
    assert server.wait_ready()
    with impasto.Client(server.address) as client:
        found = [submit(client, pictures, kind, "").result().data for kind in range(KINDS)]
    server.stop()
    return found


def soak(
    pictures: list[Picture],
    kills: int,
    seed: int,
    where: Path,
    in_flight: int = 3,
    places: tuple[str, ...] = NAMES,
) -> tuple[collections.Counter[str], list[str]]:
    """Kill the given number of times; return counts of what was done, and all violations."""
    draw = random.Random(seed)
    wanted = reference(pictures, where)
    server = Server(where / "data", free_port(), where / "server.log")
    server.start()
    assert server.wait_ready()
    done: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    clients: list[tuple[threading.Thread, Watched]] = []
    submitted = 0
    plan = [name for name in places for _ in range(max(1, kills // (2 * len(places))))][: kills // 2]
    plan += ["worker" if index % 4 == 0 else "server" for index in range(kills - len(plan))]
    draw.shuffle(plan)

    def one_more() -> None:
        nonlocal submitted
        seen = Watched(submitted % KINDS, f"request-{submitted}")
        submitted += 1
        thread = threading.Thread(target=follow, args=(server.address, pictures, seen), daemon=True)
        thread.start()
        clients.append((thread, seen))

    for kind in plan:
        clients = [pair for pair in clients if pair[0].is_alive() or _judge(pair[1], wanted, done, wrong)]
        while len(clients) < in_flight:
            one_more()
        if kind == "server":
            time.sleep(draw.uniform(0.0, 1.5))
            server.kill()
        elif kind == "worker":
            time.sleep(draw.uniform(0.0, 1.0))
            done["no worker to kill"] += not server.kill_worker()
        else:
            server.kill()
            rare = {"admit": 1, "result": 2}.get(kind.partition(".")[0], 9)
            server.start(f"{kind}:{draw.randint(1, rare)}")
            if kind.startswith("admit"):  # the existing clients have already been admitted
                one_more()
            server.wait_ready()  # it may die earlier
            # A restarted worker has the same failpoint. Stop before a job loses its worker three times.
            deadline = time.monotonic() + (1.5 if "checkpoint" in kind else REACH_S)
            while not server.dead and time.monotonic() < deadline:
                time.sleep(0.02)
            if not server.dead and "checkpoint" not in kind:
                done[f"{kind} not reached"] += 1
            server.kill()
        done[kind] += 1
        if server.dead:
            server.start()
            assert server.wait_ready()
    for thread, seen in clients:
        thread.join(300)
        _judge(seen, wanted, done, wrong)
    with impasto.Client(server.address) as client:
        jobs = list(client.jobs())
    names = collections.Counter(job.request_id for job in jobs)
    wrong += [f"{name}: {count} jobs are stored" for name, count in names.items() if count > 1]
    if len(jobs) != submitted:
        wrong.append(f"{submitted} jobs were submitted, {len(jobs)} are stored")
    done["lives of the server"] = server.lives
    server.stop()
    left = list((where / "data" / "checkpoints").iterdir())
    if left:
        wrong.append(f"checkpoints were not deleted: {left}")
    return done, wrong


def _judge(seen: Watched, wanted: list[Picture], done: collections.Counter[str], wrong: list[str]) -> bool:
    done["jobs"] += 1
    done["times that steps were repeated"] += seen.restarts
    found = check(seen, wanted[seen.kind])
    if found and "was lost 3 times" in seen.error:
        done["jobs failed after three worker losses, as specified"] += 1
    else:
        wrong += found
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--places", nargs="+", default=NAMES, choices=NAMES, help="failpoints for half of the kills")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.conftest import encoded, picture

    pictures = [encoded(picture(64, 48, seed)) for seed in range(KINDS)]
    with folder() as where:
        began = time.monotonic()
        done, wrong = soak(pictures, arguments.kills, arguments.seed, where, places=tuple(arguments.places))
        for name, count in sorted(done.items()):
            print(f"{count:5d}  {name}")
        print(f"{time.monotonic() - began:.0f} s")
        if wrong:
            print("\n".join(wrong))
            print((where / "server.log").read_text()[-5000:])
            raise SystemExit(1)
        print("no job lost, no duplicates, every picture identical to the reference")


if __name__ == "__main__":
    main()
