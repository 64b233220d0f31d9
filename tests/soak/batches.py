"""Run `impasto batch` while its client and its server are killed, and check that the result is that of an undisturbed run.

Invariants, whatever is killed and when: every pair has its picture, bit for bit that of the undisturbed run; the manifest has
one line for each; the server has one job for each; few evaluations were done again.

`make soak-batch` runs the long form; a test runs a few kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import impasto
from impasto.batch.manifest import NAME, entries
from impasto.cli.main import LATER
from impasto.results import Step
from tests.soak.crashes import Server, folder, free_port

MOST_REPEATED = 0.05
"""Largest share of the evaluations that may be done again."""
START_S = 0.5
"""Shortest time between two kills."""


@dataclass(frozen=True)
class Figures:
    """What a run showed.

    Attributes:
        pairs: Number of pairs.
        undisturbed_s: Duration of the undisturbed run.
        disturbed_s: Duration of the run with kills, restarts included.
        kills: What was killed, and when, in seconds after the start.
        evaluations: Evaluations that the jobs needed.
        repeated: Evaluations that were done again.
        clients: Number of times that the command was started.
    """

    pairs: int
    undisturbed_s: float
    disturbed_s: float
    kills: tuple[tuple[str, float], ...]
    evaluations: int
    repeated: int
    clients: int


def command(server: Server, photos: Path, styles: Path, out: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the batch."""
    arguments = ["batch", str(photos), "--style", str(styles), "-o", str(out), "--no-sheet", "--patience", "120", *options]
    environment = {**os.environ, "IMPASTO_SERVER": server.address}
    return subprocess.Popen([sys.executable, "-m", "impasto", *arguments], env=environment, stderr=subprocess.PIPE)


def whole(server: Server, photos: Path, styles: Path, out: Path, options: Sequence[str]) -> float:
    """Run the batch undisturbed; return its seconds."""
    began = time.monotonic()
    process = command(server, photos, styles, out, options)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    return time.monotonic() - began


def disturbed(
    server: Server, photos: Path, styles: Path, out: Path, options: Sequence[str], kills: Sequence[tuple[str, float]]
) -> tuple[float, int]:
    """Run the batch and kill its client or its server at given times; return its seconds and how often it was started."""
    began, starts = time.monotonic(), 1
    process = command(server, photos, styles, out, options)
    for what, at in kills:
        time.sleep(max(START_S, began + at - time.monotonic()))
        if process.poll() is not None:
            break  # it was faster than the undisturbed run
        if what == "server":
            server.kill()
            server.start()
            assert server.wait_ready()
        else:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            process = command(server, photos, styles, out, options)
            starts += 1
    _, said = process.communicate()
    while process.returncode == LATER and starts < len(kills) + 3:  # the server was killed before the client had reached it
        process = command(server, photos, styles, out, options)
        starts += 1
        _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    return time.monotonic() - began, starts


def evaluations(server: Server) -> tuple[int, int, list[str]]:
    """Return the evaluations that the stored jobs needed, those that were done again, and states that are wrong."""
    needed = repeated = 0
    wrong = []
    with impasto.Client(server.address) as client:
        for job in list(client.jobs()):
            if job.state != "succeeded":
                wrong.append(f"job {job.job_id} is {job.state}: {job.error_message}")
                continue
            steps = [event.step for event in client.job(job.job_id).progress(resume_after=0) if isinstance(event, Step)]
            needed += len(set(steps))
            repeated += len(steps) - len(set(steps))
    return needed, repeated, wrong


def soak(
    photos: Path,
    styles: Path,
    where: Path,
    options: Sequence[str],
    *,
    client_kills: int,
    server_kills: int,
    seed: int,
    kind: type[Server] = Server,
) -> tuple[Figures, list[str]]:
    """Run the batch twice, undisturbed and disturbed; return figures and all violations."""
    calm = kind(where / "calm-data", free_port(), where / "calm.log")
    calm.start()
    assert calm.wait_ready()
    undisturbed_s = whole(calm, photos, styles, where / "calm", options)
    calm.stop()
    draw = random.Random(seed)
    names = ["client"] * client_kills + ["server"] * server_kills
    draw.shuffle(names)
    times = sorted(draw.uniform(0.05, 0.9) * undisturbed_s for _ in names)
    kills = tuple(zip(names, times, strict=True))
    rough = kind(where / "rough-data", free_port(), where / "rough.log")
    rough.start()
    assert rough.wait_ready()
    disturbed_s, starts = disturbed(rough, photos, styles, where / "rough", options, kills)
    needed, repeated, wrong = evaluations(rough)
    with impasto.Client(rough.address) as client:
        stored = len(list(client.jobs()))
    rough.stop()
    wanted = {path.name: path.read_bytes() for path in (where / "calm").glob("*.png")}
    found = {path.name: path.read_bytes() for path in (where / "rough").glob("*.png")}
    lines = list(entries(where / "rough" / NAME))
    wrong += [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} differs from the undisturbed run's" for name in wanted if found.get(name, wanted[name]) != wanted[name]]
    if len(lines) != len(wanted) or {line["output"] for line in lines} != wanted.keys():
        wrong.append(f"the manifest has {len(lines)} lines for {len(wanted)} pictures")
    if stored != len(wanted):
        wrong.append(f"the server has {stored} jobs for {len(wanted)} pictures")
    if repeated > MOST_REPEATED * needed:
        wrong.append(f"{repeated} of {needed} evaluations were done again")
    return Figures(len(wanted), undisturbed_s, disturbed_s, kills, needed, repeated, starts), wrong


def draw_pictures(photos: Path, styles: Path, count: int, style_count: int, size: int) -> None:
    """Draw photos and styles."""
    from tests.conftest import encoded, picture

    for number in range(count):
        photos.mkdir(exist_ok=True)
        (photos / f"photo-{number:02}.png").write_bytes(encoded(picture(size, size - 16 + number % 16, number)))
    for number in range(style_count):
        styles.mkdir(exist_ok=True)
        (styles / f"style-{number}.png").write_bytes(encoded(picture(size, size, 100 + number)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=30)
    parser.add_argument("--styles", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--client-kills", type=int, default=3)
    parser.add_argument("--server-kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    with folder() as where:
        photos, styles = where / "photos", where / "styles"
        draw_pictures(photos, styles, arguments.photos, arguments.styles, arguments.size)
        options = ["--size", str(arguments.size), "--steps", str(arguments.steps)]
        figures, wrong = soak(
            photos,
            styles,
            where,
            options,
            client_kills=arguments.client_kills,
            server_kills=arguments.server_kills,
            seed=arguments.seed,
        )
    print(json.dumps(figures.__dict__, indent=2))
    if wrong:
        raise SystemExit("\n".join(wrong))
    share = 100 * figures.repeated / figures.evaluations
    print(f"{figures.pairs} pictures, each as in the undisturbed run; {share:.2f} % of the evaluations were done again")


if __name__ == "__main__":
    main()
