"""The page's files and the description of the API."""

from __future__ import annotations

import json
from typing import Any


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
