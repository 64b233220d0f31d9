"""Each example in examples/python runs as it stands, against the service with a worker that counts."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from standardwebhooks import Webhook

from tests.conftest import ROOT

EXAMPLES = ROOT / "examples/python"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of this test


@pytest.fixture
def files(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    for folder, seeds in (("photos", (0, 1)), ("styles", (2, 3))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            (tmp_path / folder / f"{folder[0]}{seed}.png").write_bytes(png(64, 48, seed))
    return tmp_path


async def ran(address: str, where: Path, *command: str, **environment: str) -> str:
    """Run a program of the examples; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=where,
        env={**os.environ, "IMPASTO_SERVER": address, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


async def test_one_picture(service: Any, files: Path) -> None:
    """And a mix of two styles."""
    async with service() as running:
        styles = ("styles/s2.png", "styles/s3.png")
        said = await ran(running.running.address, files, str(EXAMPLES / "one_picture.py"), "photos/p0.png", *styles)
    assert "painted.png: loss" in said
    assert "step 50 of 50" in said
    assert size(files / "painted.png") == size(files / "mixed.jpg") == (256, 192)


async def test_several_at_once(service: Any, files: Path) -> None:
    async with service() as running:
        styles = ("styles/s2.png", "styles/s3.png")
        await ran(running.running.address, files, str(EXAMPLES / "several_at_once.py"), "photos/p0.png", *styles)
    assert size(files / "p0-s2.png") == size(files / "p0-s3.png") == (256, 192)


async def test_many_pictures(service: Any, files: Path) -> None:
    """A file of another kind is reported, and the others are painted."""
    async with service() as running:
        command = (str(EXAMPLES / "many_pictures.py"), "photos", "styles", "out")
        said = await ran(running.running.address, files, *command)
        assert "4 of 4 pictures painted" in said
        assert sorted(path.name for path in (files / "out").iterdir()) == ["p0-s2.png", "p0-s3.png", "p1-s2.png", "p1-s3.png"]
        (files / "photos/p0.png").write_bytes(b"no picture")
        with pytest.raises(AssertionError, match="2 of 4 pictures painted"):
            await ran(running.running.address, files, *command)


async def test_the_web_service(service: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callers submit, look and fetch; errors keep their reasons; a webhook with a wrong signature is refused."""
    monkeypatch.setenv("STYLES", str(files / "styles"))
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    described = importlib.util.spec_from_file_location("web_service", EXAMPLES / "web_service.py")
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    monkeypatch.setitem(sys.modules, "web_service", module)
    described.loader.exec_module(module)
    app = module.app
    async with service() as running:
        monkeypatch.setenv("IMPASTO_SERVER", running.running.address)
        transport = httpx.ASGITransport(app=app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            photo = (files / "photos/p0.png").read_bytes()
            made = await http.post("/pictures", params={"style": "s2", "size_px": 64}, content=photo)
            assert made.status_code == 202, made.text
            job_id = made.json()["id"]
            while (await http.get(f"/pictures/{job_id}")).json()["state"] != "succeeded":
                await asyncio.sleep(0.02)
            found = await http.get(f"/pictures/{job_id}/file")
            assert found.content.startswith(b"\xff\xd8")
            assert (await http.post("/pictures", params={"style": "nope"}, content=photo)).status_code == 404
            wrong = await http.post("/pictures", params={"style": "s2"}, content=b"no picture")
            assert (wrong.status_code, wrong.text.partition(":")[0]) == (422, "UNREADABLE")
            assert (await http.get("/pictures/nosuch")).status_code == 404
            body = json.dumps({"type": "job.succeeded", "data": {"job_id": job_id}})
            now = datetime.now(UTC)
            signed = {
                "webhook-id": f"msg_{job_id}",
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": Webhook(SECRET).sign(f"msg_{job_id}", now, body),
            }
            assert (await http.post("/ended", content=body, headers=signed)).status_code == 204
            assert app.state.ended == {job_id: "job.succeeded"}
            assert (await http.post("/ended", content=body.replace("job.", "jab."), headers=signed)).status_code == 400


async def test_the_notebook(service: Any, files: Path) -> None:
    """Every cell runs, and pictures and jobs are shown as such; what is in git has no outputs."""
    kept = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    assert all(not cell.get("outputs") for cell in kept["cells"])
    script = (
        "import nbformat, nbclient, sys\n"
        "notebook = nbformat.read(sys.argv[1], 4)\n"
        "nbclient.NotebookClient(notebook, timeout=180, kernel_name='python3').execute()\n"
        "nbformat.write(notebook, 'ran.ipynb')\n"
    )
    async with service() as running:
        pictures = {"PHOTO": "photos/p0.png", "STYLE": "styles/s2.png"}
        await ran(running.running.address, files, "-W", "ignore", "-c", script, str(EXAMPLES / "notebook.ipynb"), **pictures)
    outputs = [item for cell in json.loads((files / "ran.ipynb").read_text())["cells"] for item in cell.get("outputs", ())]
    shown = [item["data"] for item in outputs if "data" in item]
    assert sum("image/png" in data for data in shown) == 2
    assert sum("<progress" in "".join(data.get("text/html", "")) for data in shown) == 2
    assert not [item for item in outputs if item["output_type"] == "error"]
