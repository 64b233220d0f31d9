"""What the world sends, mixed at random: odd files and names, slow, silent and cut links, and callers who leave.

Five clients at a time send small jobs to a real server. Invariants: a good picture is painted, and a bad one is refused with
its field's name, whatever the link; a link that was cut costs a retry, or without patience ends with UNAVAILABLE; no call ends
with INTERNAL or UNKNOWN; the log has no traceback; afterwards no job, call, descriptor or process is left, and memory is flat.

`make soak-world` runs 5,000 jobs, the tests some dozens.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

import impasto
from impasto.pictures import to_bytes
from impasto.results import Step
from tests.conftest import encoded, picture
from tests.files import NAMES, ODD_METADATA, PICTURE, TRUNCATED, swapped_profile, with_chunks
from tests.links import Link
from tests.soak.crashes import free_port

CLIENTS = 5
DRAIN_S = 60.0
COMMAND = (sys.executable, "-c", "from impasto.cli import main; main()")
OPTIONS: dict[str, Any] = {"size_px": 24, "steps": 2, "levels": 1}
_LARGE = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (260, 280, 3), dtype=np.uint8)))


def _turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PICTURE, kind, exif=exif.tobytes())


GOOD: dict[str, bytes] = {
    **{f"png with odd {name}": with_chunks(before) for name, before in ODD_METADATA.items()},
    **{f"png of mode {mode}": encoded(PICTURE.convert(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    **{f"jpeg of mode {mode}": encoded(PICTURE.convert(mode), "JPEG") for mode in ("L", "RGB", "CMYK")},
    **{f"{kind} turned by {turn}": _turned(turn, kind) for kind in ("PNG", "JPEG", "WEBP") for turn in (3, 6, 9)},
    "palette with a profile": encoded(PICTURE.quantize(200), icc_profile=swapped_profile()),
    "animation": encoded(PICTURE, "WEBP", save_all=True, append_images=[picture(seed=1)]),
    "bytes behind the end": encoded(PICTURE) + b"\0" * 5000,
    "gif": encoded(PICTURE, "GIF"),  # the client converts both
    "tiff": encoded(PICTURE, "TIFF"),
    "large": _LARGE,
}
BAD: dict[str, bytes] = {
    **{f"truncated: {name}": data for name, data in TRUNCATED.items()},
    "empty": b"",
    "a page of html": b"<!doctype html><title>404</title>",
    "one pixel": encoded(Image.new("RGB", (1, 1))),
    "a line": encoded(Image.new("RGB", (900, 3))),
    "bomb": encoded(Image.new("1", (12_000, 12_000))),
}
MASKS = {
    "white on transparent": encoded(Image.new("RGBA", (20, 20), (255, 255, 255, 200))),
    "grey": encoded(Image.new("L", (64, 9), 128)),
}


@dataclass
class Seen:
    """What the clients saw, from all threads."""

    done: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        """Count an outcome."""
        self.done[what] += 1


@dataclass
class Sample:
    """Resources of the server's processes."""

    jobs: int
    server_mb: float
    workers_mb: float
    descriptors: int
    processes: int


class World:
    """A server, and clients who send it what the world sends.

    Args:
        where: Folder for the server and the clients' files.
        seed: Seed of all draws.
        retention_s: Seconds that the server keeps ended jobs.
    """

    def __init__(self, where: Path, seed: int, retention_s: float = 20) -> None:
        self.where = where
        self.address, self.metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.data, self.log = where / "data", where / "server.log"
        self.seen = Seen()
        self.samples: list[Sample] = []
        self._seed, self._retention_s = seed, retention_s
        self._next = 0
        self._lock = threading.Lock()
        self.style = encoded(picture(seed=2), "JPEG")
        for index, name in enumerate(NAMES):
            (where / f"in-{index}").mkdir()
            (where / f"in-{index}" / name).write_bytes(encoded(PICTURE))
        (where / "style.jpg").write_bytes(self.style)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Run the server."""
        command = [
            *COMMAND,
            "serve",
            "--listen",
            self.address,
            "--metrics",
            self.metrics,
            "--device",
            "cpu",
            "--weights",
            "builtin",
        ]
        command += ["--data-dir", str(self.data), "--retention-s", str(self._retention_s), "--grace-s", "5"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
            self.process = psutil.Process(process.pid)
            try:
                with impasto.Client(self.address, patience_s=0) as client:
                    self._wait(lambda: client.health(2.0) == "serving", 90, "the server did not start")
                yield
                process.terminate()
                code = process.wait(60)
                if code:
                    self.seen.wrong.append(f"the server ended with {code}")
            finally:
                process.kill()

    def run(self, jobs: int, samples: int = 10) -> None:
        """Send so many jobs, and see what is left of them. Retention must outlast a retry."""
        left = iter(range(jobs))
        every = max(1, jobs // samples)

        def client() -> None:
            while True:
                with self._lock:
                    number = next(left, None)
                if number is None:
                    return
                if number % every == 0:
                    self.samples.append(self._sample(number))
                try:
                    self._deed(number)
                except Exception as error:
                    self.seen.wrong.append(f"job {number}: {type(error).__name__}: {error}")

        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        self._look_afterwards()

    def _deed(self, number: int) -> None:
        """Let one client send one job."""
        draw = random.Random(f"{self._seed}-{number}")
        deed = draw.choices(
            (self._stylize, self._watch, self._join, self._cancel, self._upload, self._leave, self._command),
            (40, 15, 10, 10, 12, 10, 1),
        )[0]
        bad = draw.random() < 0.25
        kind, data = draw.choice(list((BAD if bad else GOOD).items()))
        link = self._link(draw)
        patience_s = draw.choice((0.0, 5.0, 20.0))
        with link as on, impasto.Client(on.address if on else self.address, patience_s=patience_s) as client:
            story = f"{deed.__name__.strip('_')} {kind}"
            try:
                deed(client, draw, data)
            except impasto.InvalidRequest as error:
                fields = [violation.field for violation in error.violations]
                good = bad and fields and all(name.startswith(("content", "styles", "picture")) for name in fields)
                self._judge(number, story, "refused", good or (deed == self._command), error)
            except (impasto.Unavailable, impasto.JobCancelled, impasto.WaitTimeout) as error:
                # Without patience, or where no connection was ever made, a cut is the caller's to handle.
                told = isinstance(error, impasto.Unavailable) and (not patience_s or error.reason == "UNAVAILABLE")
                lost = on is not None and on.cut > 0 and told
                self._judge(number, story, f"lost: {type(error).__name__}", lost, error)
            else:
                if not (on is not None and on.cut) and bad and deed not in (self._upload, self._command, self._leave):
                    self._judge(number, story, "painted", good=False, error=None)
                else:
                    self.seen.count(f"{deed.__name__.strip('_')}: as asked")
        if on is not None:
            self.seen.count("connections cut" if on.cut else "slow or silent links")

    def _judge(self, number: int, story: str, outcome: str, good: bool, error: Exception | None) -> None:
        self.seen.count(outcome)
        if not good:
            self.seen.wrong.append(f"job {number}, {story}: {outcome}: {error}")

    def _link(self, draw: random.Random) -> contextlib.AbstractContextManager[Link | None]:
        """Draw a link to the server; none is a direct one."""
        seed = draw.randrange(1 << 30)
        kind = draw.choices(("direct", "slow", "silent", "cut", "cut often"), (50, 15, 10, 20, 5))[0]
        if kind == "direct":
            return contextlib.nullcontext()
        if kind == "slow":
            return Link(self.address, bytes_per_s=draw.choice((60e3, 200e3, 1e6)), seed=seed)
        if kind == "silent":
            return Link(self.address, hole_s=3, seed=seed)
        return Link(self.address, cuts=1 if kind == "cut" else 3, cut_within=(0, draw.choice((500, 20_000))), seed=seed)

    def _request(self, draw: random.Random, data: bytes) -> tuple[Any, Any, dict[str, Any]]:
        """Draw a request: the picture is its content or its style."""
        named = impasto.NamedFile(data, draw.choice(NAMES))
        other = impasto.NamedFile(self.style, draw.choice(NAMES))
        options = {**OPTIONS, "color": draw.choice(("style", "luminance", "matched")), "seed": draw.randrange(9)}
        if draw.random() < 0.2:
            options["mask"] = draw.choice(list(MASKS.values()))
        return (named, other, options) if draw.random() < 0.6 else (other, named, options)

    def _stylize(self, client: impasto.Client, draw: random.Random, data: bytes) -> None:
        """Paint, and wait for it."""
        content, style, options = self._request(draw, data)
        self._check(client.stylize(content, style, **options))

    def _watch(self, client: impasto.Client, draw: random.Random, data: bytes) -> None:
        """Paint, and watch every step."""
        content, style, options = self._request(draw, data)
        steps: list[Step] = []
        self._check(client.stylize(content, style, on_step=steps.append, **options))
        numbers = [step.step for step in steps]
        if numbers != sorted(set(numbers)):
            self.seen.wrong.append(f"steps {numbers} are not each seen once")

    def _join(self, client: impasto.Client, draw: random.Random, data: bytes) -> None:
        """Submit twice with one id, as after an answer that was lost, and fetch the picture with another client."""
        content, style, options = self._request(draw, data)
        request_id = str(uuid.UUID(int=draw.getrandbits(128), version=4))
        first = client.submit(content, style, request_id=request_id, **options)
        with impasto.Client(self.address) as again:
            second = again.submit(content, style, request_id=request_id, **options)
            if first.job_id != second.job_id:
                self.seen.wrong.append(f"{first.job_id} and {second.job_id} for one request id")
            self._check(second.result(120))
            second.delete()

    def _cancel(self, client: impasto.Client, draw: random.Random, data: bytes) -> None:
        """Submit, and think better of it."""
        content, style, options = self._request(draw, data)
        job = client.submit(content, style, **{**options, "steps": 500})
        time.sleep(draw.uniform(0, 0.2))
        job.cancel()

    def _upload(self, client: impasto.Client, draw: random.Random, data: bytes) -> None:
        """Upload a file, paint it, and read it back."""
        uploaded = client.upload(impasto.NamedFile(data or b"x", draw.choice(NAMES)))
        self._check(client.stylize(uploaded, self.style, **OPTIONS))
        if client.download(uploaded) != to_bytes(data, "picture"):  # which is another file if the client converts it
            self.seen.wrong.append("a file came back changed")

    def _leave(self, client: impasto.Client, draw: random.Random, data: bytes) -> None:
        """Close the connection while the picture is painted."""
        content, style, options = self._request(draw, data)
        leaving = threading.Timer(draw.uniform(0, 0.3), client.close)
        leaving.start()
        try:
            client.stylize(content, style, **{**options, "steps": 500})
        except impasto.InvalidRequest:
            pass
        except impasto.ImpastoError as error:
            self.seen.count(f"left: {type(error).__name__}")
        finally:
            leaving.cancel()

    def _command(self, client: impasto.Client, draw: random.Random, data: bytes) -> None:
        """Use the command line with a file of an odd name."""
        index = draw.randrange(len(NAMES))
        out = self.where / f"out-{uuid.uuid4()}.png"
        # A name that begins with a dash needs -- before it, as everywhere.
        arguments = ["stylize", "-o", str(out), "-q", "--size", "24", "--steps", "2", "--levels", "1", "--", NAMES[index]]
        done = subprocess.run(
            [*COMMAND, *arguments, "../style.jpg"],
            cwd=self.where / f"in-{index}",
            env={**os.environ, "IMPASTO_SERVER": self.address},
            capture_output=True,
            timeout=120,
            check=False,
        )
        if done.returncode or b"Traceback" in done.stderr:
            self.seen.wrong.append(f"{NAMES[index]!r}: {done.returncode}: {done.stderr.decode(errors='replace')}")
        else:
            with Image.open(out) as image:
                image.load()
            out.unlink()

    def _check(self, result: impasto.Result) -> None:
        with Image.open(io.BytesIO(result.data)) as image:
            image.load()
            if max(image.size) != OPTIONS["size_px"]:
                self.seen.wrong.append(f"the picture is {image.size}")

    def _sample(self, jobs: int) -> Sample:
        children = self.process.children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        return Sample(
            jobs,
            self.process.memory_info().rss / 1e6,
            sum(worker.memory_info().rss for worker in workers) / 1e6,
            self.process.num_fds(),
            len(children),
        )

    def _look_afterwards(self) -> None:
        """See that nothing is left: jobs, calls, files, descriptors, processes; nor an internal error."""
        wrong = self.seen.wrong
        with impasto.Client(self.address) as client:
            self._wait(lambda: not list(client.jobs(("queued", "running"))), DRAIN_S, "jobs continue for nobody")
            self._wait(lambda: not list(client.jobs()), DRAIN_S + self._retention_s, "ended jobs are kept too long")
        self.samples.append(self._sample(-1))
        figures = self._figures()
        internal = re.compile(r"impasto_faults_total|grpc_server_handled_total.*grpc_code=\"(Internal|Unknown|DataLoss)\"")
        wrong += [f"{name} is {value:g}" for name, value in figures.items() if value and internal.match(name)]
        for name in ("impasto_queue_depth", "impasto_progress_streams", 'impasto_jobs_running{device="cpu"}'):
            if figures[name]:
                wrong.append(f"{name} is {figures[name]:g}")
        started, handled = (
            sum(value for name, value in figures.items() if name.startswith(f"grpc_server_{what}_total"))
            for what in ("started", "handled")
        )
        if started != handled:
            wrong.append(f"{started - handled:g} calls have not ended")
        text = self.log.read_text(errors="replace")
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if re.search(r"Traceback|\b(ERROR|CRITICAL)\b|Task exception", line):
                wrong.append("in the log:\n" + "\n".join(lines[max(0, number - 3) : number + 30]))
                break
        if any(character in text for character in "\x1b\u202e"):
            wrong.append("the log has control characters of a name")

    def _figures(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics") as page:
            lines = page.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def _wait(self, ready: Callable[[], bool], limit_s: float, otherwise: str) -> None:
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            with contextlib.suppress(impasto.ImpastoError):
                if ready():
                    return
            time.sleep(0.1)
        self.seen.wrong.append(otherwise)


def growth(samples: list[Sample]) -> dict[str, float]:
    """Return how much each resource grew from the first third of the samples to the last third; the very first is left out."""
    third = max(1, (len(samples) - 1) // 3)
    early, late = samples[1 : 1 + third], samples[-third:]
    return {
        name: statistics.median(getattr(sample, name) for sample in late)
        - statistics.median(getattr(sample, name) for sample in early)
        for name in ("server_mb", "workers_mb", "descriptors", "processes")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="impasto-world-") as folder:
        world = World(Path(folder), arguments.seed)
        began = time.monotonic()
        with world.serving():
            world.run(arguments.jobs)
        for name, count in sorted(world.seen.done.items()):
            print(f"{count:6d}  {name}")
        for sample in world.samples:
            print(sample)
        grown = growth(world.samples)
        print("growth:", {name: round(value, 1) for name, value in grown.items()})
        print(f"{time.monotonic() - began:.0f} s")
        wrong = world.seen.wrong
        limits = {"server_mb": 30, "workers_mb": 60, "descriptors": 10, "processes": 1}
        wrong += [f"{name} grew by {grown[name]:g}" for name, limit in limits.items() if grown[name] > limit]
        if wrong:
            print("\n".join(wrong))
            raise SystemExit(1)
        print("nothing internal, nothing left, memory and descriptors flat")


if __name__ == "__main__":
    main()
