"""What a shell is told when the user presses Tab."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from impasto.cli.main import cli
from tests.integration.contract.test_labels import submitted
from tests.unit.server.fakes import FakeWorker


async def completed(address: str, *arguments: str) -> list[str]:
    """Return the completions of a command line whose last argument is incomplete."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMPASTO_SERVER", address)
        shell = ShellComplete(cli, {}, "impasto", "_IMPASTO_COMPLETE")
        found = await asyncio.to_thread(shell.get_completions, list(arguments[:-1]), arguments[-1])
    return [item.value if item.type == "plain" else item.type for item in found]


async def test_jobs_presets_networks_and_layers_come_from_the_server(service: Any, spec: Any) -> None:
    """Layers after those that are typed already; jobs that the command can act on."""
    async with service(FakeWorker(hang=True)) as running:
        address = running.running.address
        job_id = await submitted(running, spec)
        assert job_id in await completed(address, "jobs", "show", "")
        assert job_id in await completed(address, "jobs", "cancel", job_id[:3])
        assert job_id not in await completed(address, "jobs", "resume", "")
        assert await completed(address, "stylize", "--preset", "g") == ["gatys", "good"]
        assert "vgg16:builtin" in await completed(address, "stylize", "--network", "vgg16")
        found = await completed(address, "stylize", "--style-layers", "relu1_1,relu2")
        assert {"relu1_1,relu2_1", "relu1_1,relu2_2"} == set(found)
        elsewhere = await completed("127.0.0.1:1", "--server", address, "jobs", "show", "")
        assert job_id in elsewhere


async def test_files_and_words_are_completed_without_a_server() -> None:
    """And a server that does not answer costs nothing but its part."""
    gone = "127.0.0.1:1"
    for arguments in (
        ["stylize", ""],
        ["stylize", "p.png", ""],
        ["batch", ""],
        ["batch", "--style", ""],
        ["upload", ""],
        ["stylize", "--init-image", ""],
    ):
        assert await completed(gone, *arguments) == ["file"], arguments
    assert await completed(gone, "stylize", "--optimizer", "") == ["lbfgs", "adam"]
    assert await completed(gone, "jobs", "show", "") == []
    assert await completed(gone, "stylize", "--network", "") == []
    assert {"batch", "grid", "jobs"} <= set(await completed(gone, ""))


async def test_profiles_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "client.toml").write_text("[profiles.studio]\n[profiles.home]\n")
    monkeypatch.setenv("IMPASTO_CLIENT_CONFIG", str(tmp_path / "client.toml"))
    assert await completed("127.0.0.1:1", "--profile", "s") == ["studio"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_printed(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert "_IMPASTO_COMPLETE" in done.output
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.output, text=True, check=False).returncode == 0
