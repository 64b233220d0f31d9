"""``impasto batch`` against the service with a worker that counts: every pair once, whatever happens in between."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import impasto
from impasto.batch.manifest import entries
from impasto.cli.batch import _server_info
from impasto.cli.main import cli
from impasto.v1 import style_transfer_pb2 as pb
from tests.unit.client.servers import FakeService, serving
from tests.unit.server.fakes import FakeWorker

FAST = ["--size", "48", "--steps", "3", "--levels", "1", "--optimizer", "adam"]


@pytest.fixture
def files(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    """Return a folder with three photos and two styles."""
    for index in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / f"photos/p{index}.png").write_bytes(png(48, 40 + 2 * index, index))
    for index in range(2):
        (tmp_path / f"s{index}.png").write_bytes(png(seed=4 + index))
    return tmp_path


async def batch(address: str, files: Path, *arguments: str, stdin: str = "", out: str = "out") -> Result:
    """Run the command over all photos and styles."""
    given = ["batch", *(arguments or (str(files / "photos"),)), "--style", str(files / "s0.png"), str(files / "s1.png")]
    environment = {"IMPASTO_SERVER": address, "COLUMNS": "200"}
    command = [*given, "-o", str(files / out), *FAST]
    return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, command, input=stdin)


async def started(address: str, files: Path) -> asyncio.subprocess.Process:
    """Start the command over all photos and styles in a process of its own."""
    command = [sys.executable, "-m", "impasto", "batch", str(files / "photos"), "--style"]
    command += [str(files / "s0.png"), str(files / "s1.png"), "-o", str(files / "out"), *FAST]
    environment = {**os.environ, "IMPASTO_SERVER": address}
    return await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)


async def listed(running: Any) -> list[Any]:
    return list((await running.stub.ListJobs(pb.ListJobsRequest(page_size=500))).jobs)


async def test_every_photo_is_painted_in_every_style_once(service: Any, files: Path) -> None:
    """With a line in the manifest for each, a sheet, and nothing painted by a second run."""
    async with service() as running:
        done = await batch(running.running.address, files)
        assert done.exit_code == 0, done.output
        assert "6 of 6 pictures painted" in done.stderr
        assert "per minute" in done.stderr
        lines = list(entries(files / "out/manifest.jsonl"))
        assert sorted(line["output"] for line in lines) == [f"p{p}-s{s}.png" for p in range(3) for s in range(2)]
        for line in lines:
            assert line["status"] == "succeeded"
            assert line["parameters"]["size_px"] == 48
            assert line["losses"]["total"] > 0
            assert line["error"] is None
            with Image.open(files / "out" / line["output"]) as image:
                assert image.size == (line["width_px"], line["height_px"])
        jobs = await listed(running)
        assert len(jobs) == 6
        assert len({job.inputs[0].sha256 for job in jobs}) == 3
        assert (files / "out/contact-sheet.jpg").exists()
        again = await batch(running.running.address, files)
        assert "0 of 6 pictures painted, 6 kept" in again.stderr
        assert len(await listed(running)) == 6
        assert len(list(entries(files / "out/manifest.jsonl"))) == 6


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that clients upload, in order."""
    found: list[str] = []
    upload = impasto.Client.upload

    def noted(self: impasto.Client, picture: Any) -> impasto.UploadedImage:
        found.append(str(picture))
        return upload(self, picture)

    monkeypatch.setattr(impasto.Client, "upload", noted)
    return found


async def test_files_are_uploaded_once(service: Any, files: Path, sent: list[str]) -> None:
    """Each content is in two jobs, each style in three."""
    async with service(FakeWorker(), max_running_jobs=4) as running:
        assert (await batch(running.running.address, files)).exit_code == 0
    assert len(sent) == len(set(sent)) == 5


async def test_a_changed_option_or_file_paints_anew(service: Any, files: Path, png: Callable[..., bytes]) -> None:
    """Only what is changed; another label or priority changes nothing."""
    async with service() as running:
        await batch(running.running.address, files)
        handled = await batch(running.running.address, files, str(files / "photos"), "--label", "a=b", "--priority", "3")
        assert "0 of 6 pictures painted, 6 kept" in handled.stderr, handled.output
        changed = await batch(running.running.address, files, str(files / "photos"), "--content-weight", "0.5")
        assert "6 of 6 pictures painted" in changed.stderr
        (files / "photos/p1.png").write_bytes(png(60, 50, 3))
        changed = await batch(running.running.address, files, str(files / "photos"), "--content-weight", "0.5")
        assert "2 of 6 pictures painted, 4 kept" in changed.stderr


async def test_masks_and_regions_are_of_one_style_and_a_changed_one_paints_anew(
    service: Any, files: Path, png: Callable[..., bytes]
) -> None:
    """Files of masks are in the manifest, by path and hash; pictures with the other style are kept."""
    masks = [files / "m0.png", files / "m1.png"]
    for index, mask in enumerate(masks):
        mask.write_bytes(png(32 + index, 30, 3))
    arguments = (str(files / "photos"), "--style-mask", str(masks[0]), "--style-mask", "", "--style-region", "")
    async with service() as running:
        address = running.running.address
        wrong = await batch(address, files, *arguments)
        assert "--style-region: give one value for each of the 2 styles, not 1" in wrong.output
        arguments = (*arguments, "--style-region", str(masks[1]), "--mask", str(masks[1]))
        done = await batch(address, files, *arguments)
        assert "6 of 6 pictures painted" in done.stderr, done.output
        lines = {line["output"]: line for line in entries(files / "out/manifest.jsonl")}
        digests = [hashlib.sha256(mask.read_bytes()).hexdigest() for mask in masks]
        assert lines["p0-s0.png"]["style"]["mask"] == {"path": str(masks[0]), "sha256": digests[0]}
        assert "region" not in lines["p0-s0.png"]["style"]
        assert lines["p0-s1.png"]["style"]["region"] == {"path": str(masks[1]), "sha256": digests[1]}
        assert lines["p0-s1.png"]["mask"] == {"path": str(masks[1]), "sha256": digests[1]}
        sent = {(item.field, item.sha256) for job in await listed(running) for item in job.inputs}
        assert {("styles[0].mask", digests[0]), ("styles[0].region", digests[1]), ("mask", digests[1])} <= sent
        again = await batch(address, files, *arguments)
        assert "0 of 6 pictures painted, 6 kept" in again.stderr
        masks[0].write_bytes(png(40, 30, 3))
        changed = await batch(address, files, *arguments)
        assert "3 of 6 pictures painted, 3 kept" in changed.stderr
        assert len({line["request_id"] for line in entries(files / "out/manifest.jsonl")}) == 9


async def test_a_mix_paints_each_photo_once_in_all_styles(service: Any, files: Path) -> None:
    """With their shares, which need it; other shares paint anew."""
    async with service() as running:
        address = running.running.address
        alone = await batch(address, files, str(files / "photos"), "--style-shares", "1,2")
        assert "--style-shares needs --mix" in alone.output
        for shares in ("1,2", "2,1"):
            done = await batch(address, files, str(files / "photos"), "--mix", "--style-shares", shares)
            assert "3 of 3 pictures painted" in done.stderr, done.output
        line = list(entries(files / "out/manifest.jsonl"))[-1]
        assert line["output"].endswith("-s0+s1.png")
        assert [(style["path"], style["weight"]) for style in line["styles"]] == [
            (str(files / "s0.png"), 2.0),
            (str(files / "s1.png"), 1.0),
        ]
        jobs = await listed(running)
        assert {tuple(item.field for item in job.inputs) for job in jobs} == {("content", "styles[0].image", "styles[1].image")}
        assert len(jobs) == 6


async def test_masks_that_expired_on_the_server_are_sent_again(
    service: Any, files: Path, png: Callable[..., bytes], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As photos and styles are."""
    (files / "m.png").write_bytes(png(32, 30, 3))
    arguments = (str(files / "photos"), "--mask", str(files / "m.png"))
    submit, expired = impasto.Client.submit, ["mask.image_id"]

    def refused_once(self: impasto.Client, *pictures: Any, **options: Any) -> Any:
        if expired:
            field = expired.pop()
            raise impasto.InvalidRequest("no such upload", violations=(impasto.Violation(field, "no such upload"),))
        return submit(self, *pictures, **options)

    monkeypatch.setattr(impasto.Client, "submit", refused_once)
    async with service() as running:
        done = await batch(running.running.address, files, *arguments)
    assert "6 of 6 pictures painted" in done.stderr, done.output
    assert sent.count(str(files / "m.png")) == 2


async def test_an_output_that_is_gone_is_fetched_and_not_painted(service: Any, files: Path) -> None:
    """Its job is still on the server; after that it is painted again."""
    async with service() as running:
        await batch(running.running.address, files)
        before = (files / "out/p0-s0.png").read_bytes()
        (files / "out/p0-s0.png").unlink()
        again = await batch(running.running.address, files)
        assert "1 of 6 pictures painted (1 already on the server), 5 kept" in again.stderr
        assert "s, already on the server" in again.stderr
        assert "per minute" not in again.stderr
        assert (files / "out/p0-s0.png").read_bytes() == before
        assert len(await listed(running)) == 6


async def test_jobs_of_a_client_that_was_killed_are_joined(service: Any, files: Path) -> None:
    """They continue on the server; the next run joins those that run and takes those that are done."""
    async with service(FakeWorker(step_s=0.05)) as running:
        address = running.running.address
        client = await started(address, files)
        while len(await listed(running)) < 4:
            await asyncio.sleep(0.02)
        client.kill()
        await client.communicate()
        done = await batch(address, files)
        assert done.exit_code == 0, done.output
        jobs = await listed(running)
        assert len(jobs) == 6
        assert all(job.state == pb.JOB_STATE_SUCCEEDED for job in jobs)
        assert len(list(entries(files / "out/manifest.jsonl"))) == 6


@pytest.mark.parametrize("presses", [1, 2])
async def test_ctrl_c_lets_running_pictures_end_and_twice_cancels_them(service: Any, files: Path, presses: int) -> None:
    """The exit code is 130; the same command goes on, also after cancelled jobs."""
    async with service(FakeWorker(step_s=0.3)) as running:
        address = running.running.address
        client = await started(address, files)
        assert client.stderr is not None
        while not any(job.state == pb.JOB_STATE_RUNNING and job.step for job in await listed(running)):
            await asyncio.sleep(0.02)
        for _ in range(presses):
            client.send_signal(signal.SIGINT)
            await asyncio.sleep(0.1)
        said = (await client.stderr.read()).decode()
        assert await client.wait() == 130, said
        assert "waiting for the running pictures; Ctrl-C again cancels them" in said
        assert "the same command goes on from here" in said
        states = [job.state for job in await listed(running)]
        succeeded = states.count(pb.JOB_STATE_SUCCEEDED)
        assert succeeded == (1 if presses == 1 else 0)
        assert states.count(pb.JOB_STATE_CANCELLED) == len(states) - succeeded
        running.worker.step_s = 0.001
        done = await batch(address, files)
        assert done.exit_code == 0, done.output
        assert f"{6 - succeeded} of 6 pictures painted" in done.stderr
        lines = list(entries(files / "out/manifest.jsonl"))
        assert sorted(line["output"] for line in lines if line["status"] == "succeeded") == sorted(
            {f"p{p}-s{s}.png" for p in range(3) for s in range(2)}
        )


async def test_a_picture_that_cannot_be_painted_does_not_stop_the_others(service: Any, files: Path) -> None:
    """It is listed with its error, in the manifest too; the exit code is 1; a later run tries it again."""
    (files / "photos/p1.png").write_bytes(b"no picture")
    (files / "photos/p2.png").write_bytes(b"")
    async with service() as running:
        done = await batch(running.running.address, files)
        assert done.exit_code == 1
        assert "2 of 6 pictures painted, 4 failed" in done.stderr
        assert f"failed: {files}/photos/p1.png with {files}/s0.png: " in done.stderr
        empty = f"{files}/photos/p2.png"
        assert f"failed: {empty} with {files}/s1.png: content: is empty: p2.png" in done.stderr
        with Image.open(files / "out/contact-sheet.jpg") as sheet:  # grey in their place
            assert sheet.width == 2 * (192 + 8) + 8
            assert sheet.getpixel((104, sheet.height // 2)) == pytest.approx((211, 211, 211), abs=4)
        lines = {line["output"]: line for line in entries(files / "out/manifest.jsonl")}
        assert lines["p1-s0.png"]["status"] == "failed"
        assert lines["p1-s0.png"]["error"]["reason"] == "UNREADABLE"
        told = await batch(running.running.address, files, str(files / "photos"), "--json")
        values = json.loads(told.stdout)
        assert (values["kept"], values["left"], len(values["failed"])) == (2, 0, 4)


async def test_photos_that_cannot_be_read_do_not_end_the_run(service: Any, files: Path) -> None:
    """However many come first: the others may be better."""
    for index in range(8):
        (files / f"photos/a{index}.png").write_bytes(b"no picture" if index % 2 else b"")
    async with service() as running:
        done = await batch(running.running.address, files)
        assert "6 of 22 pictures painted, 16 failed" in done.stderr, done.output


async def test_invalid_options_end_the_run_soon(service: Any, files: Path) -> None:
    """Not with an error for each of ten thousand pictures."""
    async with service() as running:
        done = await batch(running.running.address, files, str(files / "photos"), "--style-scale", "-7")
        assert done.exit_code != 0
        assert isinstance(done.exception, impasto.InvalidRequest)
        assert "style_scale" in str(done.exception)
        assert len(list(entries(files / "out/manifest.jsonl"))) < 4


async def test_jobs_that_lost_their_worker_are_tried_again(service: Any, files: Path) -> None:
    """Under another request id, so many times; the run goes on after a failure that a retry does not help."""
    worker = FakeWorker(fail_with=("DATA_LOST", "the disk"))
    async with service(worker) as running:
        done = await batch(running.running.address, files, str(files / "photos/p0.png"), "--retries", "1")
        assert done.exit_code == 1
        ids = [job.request_id for job in await listed(running)]
        assert len(ids) == 4
        worker.fail_with = ("ENGINE_ERROR", "a fault")
        done = await batch(running.running.address, files, str(files / "photos/p0.png"), "--retries", "3")
        assert len(await listed(running)) == 6
        worker.fail_with = None
        done = await batch(running.running.address, files, str(files / "photos/p0.png"))
        assert done.exit_code == 0
        assert len(await listed(running)) == 8


def test_an_outage_and_its_end_are_said_once(files: Path) -> None:
    """The run goes on by itself; with --quiet nothing is said."""

    def refuse(number: int, context: Any) -> None:
        if number <= 5:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    arguments = ["batch", str(files / "photos"), "--style", str(files / "s0.png"), "--parallel", "1"]
    for out, quiet in (("out", []), ("quiet", ["--quiet"])):
        with serving(FakeService(refuse)) as address:
            runner = CliRunner(env={"IMPASTO_SERVER": address})
            done = runner.invoke(cli, [*arguments, "-o", str(files / out), *quiet])
        assert done.exit_code == 0, done.output
        said = [line for line in done.stderr.splitlines() if "answers" in line]
        if quiet:
            assert said == []
        else:
            assert said[0].startswith(f"Warning: no impasto server answers at {address}")
            assert said[0].endswith("; trying again for up to 300 s")
            assert said[1:] == ["The server answers again"]


async def test_two_names_of_one_photo_are_painted_once(service: Any, files: Path) -> None:
    """The second one joins the job of the first; both get their file and their line."""
    (files / "photos/p1.png").write_bytes((files / "photos/p0.png").read_bytes())
    async with service() as running:
        done = await batch(running.running.address, files)
        assert done.exit_code == 0, done.output
        assert len(await listed(running)) == 4
        assert (files / "out/p0-s0.png").read_bytes() == (files / "out/p1-s0.png").read_bytes()
        assert len(list(entries(files / "out/manifest.jsonl"))) == 6


async def test_photos_may_come_as_a_list_on_stdin_and_pairs_as_a_csv_file(service: Any, files: Path) -> None:
    async with service() as running:
        names = "\ufeff" + "".join(f"{files}/photos/p{index}.png\n" for index in (0, 2))  # with Notepad's byte-order mark
        done = await batch(running.running.address, files, "-", stdin=names)
        assert "4 of 4 pictures painted" in done.stderr
        (files / "pairs.csv").write_text("photo,style,mask,style_mask\nphotos/p1.png,s0.png,s0.png,s1.png\n")
        command = [
            "batch",
            "--pairs",
            str(files / "pairs.csv"),
            "-o",
            str(files / "out2"),
            "--name",
            "{style}/{photo}.jpg",
            *FAST,
        ]
        runner = CliRunner(env={"IMPASTO_SERVER": running.running.address})
        done = await asyncio.to_thread(runner.invoke, cli, command)
        assert done.exit_code == 0, done.output
        with Image.open(files / "out2/s0/p1.jpg") as image:
            assert image.format == "JPEG"
        (line,) = entries(files / "out2/manifest.jsonl")
        assert line["mask"]["path"] == str(files / "s0.png")
        assert line["style"]["mask"]["path"] == str(files / "s1.png")
        done = await asyncio.to_thread(runner.invoke, cli, [*command, "--style-mask", "x.png"])
        assert "--pairs has the columns style_mask and style_region" in done.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["photos", "-o", "out"], "give style pictures with --style"),
        (["--style", "s0.png", "photos", "-o", "out"], "give PHOTOS before --style"),
        (["photos", "--style", "-o", "out"], "--style needs at least one picture"),
        (["photos", "-s", "s0.png"], "Missing option '-o'"),
        (["photos", "-s", "s0.png", "-o", "s1.png"], "is a file"),
        (["nope", "-s", "s0.png", "-o", "out"], "nope does not exist"),
        (["photos", "-s", "s0.png", "-o", "photos"], "photos is the folder of the outputs"),
        (["photos", "-s", "s0.png", "-o", "out", "--name", "x.png"], "would be the output of"),
        (["-", "-", "-s", "s0.png", "-o", "out"], "stdin can be read only once"),
        (["s1.png", "-s", "s0.png", "-o", ".", "--name", "{photo}.png"], "would replace s1.png"),
        (["s1.png", "-s", "s0.png", "-o", ".", "--name", "{photo}.png", "--dry-run"], "would replace s1.png"),
        (["photos/p1.png", "-s", "s0.png", "-o", ".", "--name", "{style}.png"], "would replace s0.png"),
        (["photos/p1.png", "-s", "s0.png", "-o", ".", "--name", "s1.png", "--mask", "s1.png"], "would replace s1.png"),
        (["photos/p1.png", "-s", "s0.png", "-o", "out", "--name", "contact-sheet.jpg"], "see --name, --no-sheet"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(
    files: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    """No server is asked, and no folder is made."""
    monkeypatch.chdir(files)
    done = CliRunner(env={"IMPASTO_SERVER": "127.0.0.1:1"}).invoke(cli, ["batch", *arguments], input="")
    assert text in done.output + str(done.exception)
    assert not (files / "out").exists()


async def test_a_dry_run_shows_the_pairs(service: Any, files: Path) -> None:
    """One on a line, whatever their names are."""
    (files / "photos/p0.png").rename(files / "photos/p\n\x07.png")
    done = await batch("127.0.0.1:1", files, str(files / "photos"), "--dry-run")
    assert len(done.stdout.splitlines()) == 6
    assert "\x07" not in done.stdout
    assert not (files / "out").exists()


async def test_an_output_that_is_a_folder_does_not_stop_the_others(service: Any, files: Path) -> None:
    """Nor in the runs after it."""
    (files / "out/p0-s0.png").mkdir(parents=True)
    async with service() as running:
        done = await batch(running.running.address, files)
        assert done.exit_code == 1
        assert "5 of 6 pictures painted, 1 failed; " in done.stderr
        done = await batch(running.running.address, files)
        assert "0 of 6 pictures painted, 5 kept from an earlier run, 1 failed; " in done.stderr
        (files / "out/p0-s0.png").rmdir()
        done = await batch(running.running.address, files)
        assert done.exit_code == 0


async def test_odd_names_are_painted_and_kept(service: Any, files: Path) -> None:
    """Names that are not UTF-8, are as long as a file system allows, or cannot be laid out on the sheet; each in one line."""
    for number, name in enumerate((b"caf\xe9.png", b"x" * 245 + b".png", "\u00e9\r\u2029\n\x07.png".encode())):
        os.rename(files / f"photos/p{number}.png", os.path.join(os.fsencode(files / "photos"), name))
    async with service() as running:
        done = await batch(running.running.address, files)
        assert done.exit_code == 0, done.output
        assert len(done.stderr.splitlines()) == 7
        assert "6 of 6 pictures painted; " in done.stderr
        assert (files / "out/contact-sheet.jpg").exists()
        done = await batch(running.running.address, files)
        assert "0 of 6 pictures painted, 6 kept from an earlier run; " in done.stderr


@pytest.mark.parametrize("error", [RuntimeError("raqm_layout() failed."), OSError(28, "No space left on device")])
async def test_a_sheet_that_fails_is_a_warning(
    service: Any, files: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The pictures are painted, and the run says so."""

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("impasto.cli.batch.batch_sheet", fail)
    async with service() as running:
        done = await batch(running.running.address, files)
        assert done.exit_code == 0, done.output
        assert "Warning: cannot write the contact sheet" in done.stderr
        assert "6 of 6 pictures painted; " in done.stderr


@pytest.mark.parametrize("patience_s", [0.0, 30.0])
def test_a_run_that_is_started_again_waits_for_its_server(patience_s: float, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be starting too; one without patience ends at once."""

    class Starting:
        asked = 0

        def server_info(self) -> str:
            self.asked += 1
            if self.asked < 3:
                raise impasto.Unavailable("no impasto server answers", reason="NO_SERVER")
            return "there"

    starting = Starting()
    if patience_s:
        assert _server_info(starting, patience_s) == "there"  # type: ignore[arg-type,comparison-overlap]
        assert capsys.readouterr().err.count("trying again for up to 30 s") == 1
    else:
        with pytest.raises(impasto.Unavailable):
            _server_info(starting, patience_s)  # type: ignore[arg-type]
