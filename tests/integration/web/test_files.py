"""The page's files and the description of the API."""

from __future__ import annotations

import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

from impasto_server.domain.reasons import REASONS
from tests.conftest import ROOT

FILES = Path(str(importlib.resources.files("impasto"))) / "web/static"
MOST_BYTES = 150_000


async def test_the_page_and_its_documentation_need_nothing_from_elsewhere(web: Any) -> None:
    """No address of another host in any file; every operation has an answer and its errors described."""
    async with web() as running:
        for path in ("/", "/docs"):
            page = await running.http.get(path)
            assert page.status_code == 200
            assert "//" not in page.text.replace("<!doctype", "").replace("http://www.w3.org/2000/svg", "")
            assert " style=" not in page.text
            assert "<script>" not in page.text
        described = (await running.http.get("/openapi.json")).json()
        operations = [item for methods in described["paths"].values() for item in methods.values()]
        assert len(operations) == 18
        for operation in operations:
            assert operation["description"]
            assert {"400", "404", "429", "503"} <= set(operation["responses"])
        schemas = described["components"]["schemas"]
        assert schemas["Parameters"]["properties"]["sizePx"]["description"].startswith("Longer side of the canvas")
        assert all(f"#/components/schemas/{name}" for name in schemas)
        for target in {part.split('"')[0] for part in json.dumps(described).split("#/components/schemas/")[1:]}:
            assert target in schemas
        again = await running.http.get("/", headers={"if-none-match": (await running.http.get("/")).headers["etag"]})
        assert again.status_code == 304
        for path in ("/static/../app.py", "/static/%2e%2e%2fapp.py", "/samples/demo.py", "/static/", "/samples/..%2fREADME.md"):
            assert (await running.http.get(path)).status_code == 404, path


def test_the_page_is_small() -> None:
    """All of its files together, without pictures."""
    assert sum(path.stat().st_size for path in FILES.iterdir()) < MOST_BYTES


def test_the_page_has_words_for_every_error() -> None:
    """Of the server, of the client and of the gateway itself."""
    known = set(re.findall(r"^  ([A-Z_]+): ", (FILES / "errors.js").read_text(), re.MULTILINE))
    ours = {
        name
        for path in (ROOT / "client/impasto/web").glob("*.py")
        for name in re.findall(r'HttpError\(\s*\d+,\s*"([A-Z_]+)"|reason="([A-Z_]+)"', path.read_text())
        for name in name
        if name
    }
    table = (ROOT / "docs/reference/errors.md").read_text().partition("raises these itself")[2]
    of_client = set(re.findall(r"^\| `([A-Z_]+)`", table, re.MULTILINE))
    assert len(ours) > 8
    assert len(of_client) > 8
    assert set(REASONS) | ours | of_client <= known


def test_text_is_never_markup() -> None:
    """No script of the page makes HTML from a string, or code."""
    for path in FILES.glob("*.js"):
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser"):
            assert word not in text, f"{path.name}: {word}"
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
