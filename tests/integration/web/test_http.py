"""The HTTP API: what curl and programs rely on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from impasto.v1 import style_transfer_pb2 as pb
from impasto.web.forms import OPTIONS, PICTURES
from impasto.web.gateway import Gateway
from tests.conftest import ROOT, opened
from tests.integration.contract.test_operations import people  # noqa: F401 - a fixture
from tests.integration.web.conftest import gateway
from tests.unit.server.fakes import FakeWorker

MIB = 1 << 20


def reason(answer: httpx.Response) -> str:
    return str(answer.json()["details"][0]["reason"])


def fields(answer: httpx.Response) -> dict[str, str]:
    return {
        item["field"]: item["description"] for detail in answer.json()["details"] for item in detail.get("fieldViolations", ())
    }


async def test_one_line_of_curl_paints(web: Any, tmp_path: Path, png: Any) -> None:
    """The line in the README: two files in, a picture out."""
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png(seed=1))
    async with web() as running:
        line = ["curl", "-sf", "-F", "content=@a.png", "-F", "style=@b.png", "-F", "steps=3", f"{running.url}v1/stylize"]
        done = await asyncio.to_thread(subprocess.run, [*line, "-o", "out.png"], cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0
    assert opened(tmp_path / "out.png") == ("PNG", (512, 427))


async def test_every_option_arrives_as_over_grpc(web: Any, png: Any) -> None:
    """By the names of the client and of the JSON mapping, as text, files and ids."""
    async with web() as running:
        data = png(seed=3)
        sha256 = hashlib.sha256(data).hexdigest()
        assert (await running.http.put(f"/v1/images/{sha256}", content=data)).json()["imageId"] == sha256
        given = {
            "sizePx": "64", "steps": "2", "color": "luminance", "optimizer": "adam", "content_weight": "0.5",
            "style_weight": "2", "style_share": ["0.7", "0.3"], "style_layers": "relu1_1=1,relu2_1=0.5",
            "style_region": [f"sha256:{sha256}", ""], "mask": f"sha256:{sha256}", "format": "jpeg", "quality": "80",
            "omit_metadata": "true", "priority": "-2", "time_limit_s": "90", "seed": "7", "request_id": "mine",
        }  # fmt: skip
        answer = await running.http.post("/v1/jobs", files=running.files(1, 2), data=given)
        assert answer.status_code == 201, answer.text
        job = answer.json()["job"]
        assert answer.headers["location"] == f"/v1/jobs/{job['jobId']}"
        ours = job["parameters"]
        assert (ours["sizePx"], ours["steps"], ours["contentWeight"], ours["styleWeight"]) == (64, 2, 0.5, 2)
        assert (ours["color"], ours["optimizer"], ours["seed"]) == ("COLOR_LUMINANCE", "OPTIMIZER_ADAM", "7")
        assert ours["styleLayers"]["layers"] == [{"layer": "relu1_1", "weight": 1}, {"layer": "relu2_1", "weight": 0.5}]
        assert job["output"] | {"previewSizePx": 0} == {
            "format": "IMAGE_FORMAT_JPEG", "quality": 80, "omitMetadata": True, "previewSizePx": 0,
        }  # fmt: skip
        assert (job["priority"], job["timeLimit"], job["requestId"]) == (-2, "90s", "mine")
        sent = {item["field"]: item.get("name", "") for item in job["inputs"]}
        assert sent == {
            "content": "photo.png", "styles[0].image": "style-1.png", "styles[1].image": "style-2.png",
            "styles[0].region": "", "mask": "",
        }  # fmt: skip


async def test_every_field_is_given_in_a_form_as_the_reference_says(web: Any, png: Any) -> None:
    """The page's tables name all options, and what they show is read; all words of booleans too."""
    page = (ROOT / "docs/reference/parameters.md").read_text()
    shown = dict(re.findall(r"^\| `\w+` \|.*?`(\w+)=([^`]+)`", page.partition("## Presets")[0], re.MULTILINE))
    assert set(shown) == {*OPTIONS, *PICTURES, "style_share"}
    assert shown["optimizer"] == "adam"
    elsewhere = {"network", "webhook"}  # of what only some servers have
    async with web() as running:
        for name, value in shown.items():
            files = [*running.files(), *([(name, ("a.png", png(seed=2)))] if value.startswith("@") else ())]
            if name == "content":
                files = files[1:]
            data = {"validate_only": "true"} | ({} if value.startswith("@") else {name: value})
            answer = await running.http.post("/v1/jobs", files=files, data=data)
            named = fields(answer) if answer.status_code != 200 else {}
            assert answer.status_code == 200 or name in elsewhere, (name, value, named)
            assert not any(text.startswith(("must be ", "is not a ")) for text in named.values()), named
        for word in ("true", "1", "on", "yes", "false", "0", "off", "no"):
            data = {"omit_metadata": word, "validate_only": "on"}
            job = (await running.http.post("/v1/jobs", files=running.files(), data=data)).json()["job"]
            assert job["output"].get("omitMetadata", False) is (word in ("true", "1", "on", "yes"))


async def test_json_is_the_contracts_own_mapping(web: Any, png: Any) -> None:
    """SubmitJobRequest in, with the id of the path; a second time joins the job."""
    spec = pb.JobSpec(content=pb.Image(data=png()), styles=[pb.Style(image=pb.Image(data=png(seed=1)))])
    body = {
        "spec": {
            "content": {"data": base64.b64encode(spec.content.data).decode()},
            "styles": [{"image": {"data": base64.b64encode(spec.styles[0].image.data).decode()}}],
            "parameters": {"sizePx": 48, "steps": 2},
        }
    }
    async with web() as running:
        first = await running.http.put("/v1/jobs/a/b c", json=body)
        again = await running.http.put("/v1/jobs/a/b c", json=body)
        assert (first.status_code, again.status_code) == (201, 201), first.text
        assert first.json()["job"]["jobId"] == again.json()["job"]["jobId"]
        assert first.json()["job"]["requestId"] == "a/b c"
        other = {**body, "spec": {**body["spec"], "parameters": {"steps": 4}}}
        reused = await running.http.put("/v1/jobs/a/b c", json=other)
        assert (reused.status_code, reason(reused)) == (400, "REQUEST_ID_REUSED")
        tried = await running.http.post("/v1/jobs", json={**body, "validateOnly": True})
        assert tried.status_code == 200
        assert "jobId" not in tried.json()["job"]
        painted = await running.http.post("/v1/stylize", json=body)
        assert painted.headers["content-type"] == "image/png"


async def test_a_job_is_listed_watched_controlled_and_deleted(web: Any) -> None:
    """The whole life over HTTP."""
    async with web(FakeWorker(hang=True)) as running:
        http, job_id = running.http, await running.submit()
        path = f"/v1/jobs/{job_id}"
        assert (await http.get(path)).json()["job"]["jobId"] == job_id
        assert (await http.get(f"{path}/result")).status_code == 400
        assert reason(await http.get(f"{path}/result")) == "JOB_HAS_NO_RESULT"
        assert reason(await http.get(f"{path}/preview")) == "PREVIEW_NOT_FOUND"
        for word in ("running", "JOB_STATE_RUNNING", "queued,running"):
            listed = (await http.get("/v1/jobs", params={"state": word})).json()["jobs"]
            assert [item["jobId"] for item in listed] == [job_id]
        assert (await http.get("/v1/jobs", params={"state": "failed"})).json() == {}
        labelled = await running.submit(labels='{"album": "norway"}')
        for filters, found in (
            ({"label": "album=norway"}, [labelled]),
            ({"label": ["album=norway", "year=2026"]}, []),
            ({"created_before": "2020-01-01T00:00:00Z"}, []),
            ({"created_from": "2020-01-01T00:00:00Z"}, [labelled, job_id]),
        ):
            listed = (await http.get("/v1/jobs", params=filters)).json().get("jobs", [])
            assert [item["jobId"] for item in listed] == found, filters
        for labels in ("album=norway", '["album"]', '{"album": 7}'):
            tried = await http.post("/v1/jobs", files=running.files(), data={"labels": labels})
            assert (tried.status_code, reason(tried)) == (400, "INVALID_FIELD"), labels
        refused = await http.get("/v1/jobs", params={"label": "norway"})
        assert (refused.status_code, reason(refused)) == (400, "INVALID_FIELD")
        await http.post(f"{path}/pause")
        async with asyncio.timeout(60):
            while (await http.get(path)).json()["job"]["state"] != "JOB_STATE_PAUSED":
                await asyncio.sleep(0.01)
        assert (await http.post(f"{path}/resume")).json()["job"]["state"] != "JOB_STATE_PAUSED"
        await http.post(f"{path}/cancel")
        assert (await running.ended(job_id))["state"] == "JOB_STATE_CANCELLED"
        assert (await http.delete(path)).status_code == 204
        assert reason(await http.get(path)) == "JOB_NOT_FOUND"


async def test_results_and_previews_are_pictures_that_are_not_sent_twice(web: Any) -> None:
    """If-None-Match answers 304; the preview of a running job is the newest."""
    async with web(FakeWorker(step_s=0.05)) as running:
        running_id = await running.submit(steps="200", preview_every_steps="1")
        async with asyncio.timeout(60):
            while not (newest := (await running.http.get(f"/v1/jobs/{running_id}/preview"))).is_success:
                await asyncio.sleep(0.05)
        assert newest.content.startswith(b"preview ")
        await running.http.post(f"/v1/jobs/{running_id}/cancel")
        job_id = await running.submit(preview_every_steps="1")
        await running.ended(job_id)
        for path, kind in ((f"/v1/jobs/{job_id}/result", "image/png"), (f"/v1/jobs/{job_id}/preview", "image/jpeg")):
            answer = await running.http.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
            again = await running.http.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


async def test_head_is_answered_as_get_without_the_body(web: Any) -> None:
    """The page, its files, the API and pictures; a stream of events ends, and the server is not left watching."""
    async with web(FakeWorker(hang=True)) as running:
        http, job_id = running.http, await running.submit()
        for path in (
            "/",
            "/docs",
            "/static/main.js",
            "/samples/swirls.jpg",
            "/v1/info",
            f"/v1/jobs/{job_id}",
            "/healthz",
            "/else",
        ):
            head, get = await http.head(path), await http.get(path)
            assert (head.status_code, head.content) == (get.status_code, b""), path
            assert head.headers["content-type"] == get.headers["content-type"]
            assert path == "/v1/info" or head.headers["content-length"] == get.headers["content-length"], path
        watched = await http.head(f"/v1/jobs/{job_id}/events", timeout=60)
        assert (watched.status_code, watched.content) == (200, b"")
        assert watched.headers["content-type"].startswith("text/event-stream")
        async with asyncio.timeout(60):
            while running.server._gateway.streams:
                await asyncio.sleep(0.01)
        head = await http.head("/v1/stylize")
        assert (head.status_code, head.headers["allow"]) == (405, "POST")
        assert (await http.delete("/docs")).headers["allow"] == "GET, HEAD"
        await http.delete(f"/v1/jobs/{job_id}")
    async with web() as running:
        job_id = await running.submit()
        await running.ended(job_id)
        for path in (f"/v1/jobs/{job_id}/result", f"/v1/jobs/{job_id}/preview"):
            head, get = await running.http.head(path), await running.http.get(path)
            assert (head.status_code, head.content) == (200, b"")
            for name in ("etag", "content-length", "content-type"):
                assert head.headers[name] == get.headers[name]
            again = await running.http.head(path, headers={"if-none-match": head.headers["etag"]})
            assert again.status_code == 304


async def test_every_invalid_field_is_named(web: Any) -> None:
    """Those of the form, those of the client and a similar name for unknown ones, in one answer."""
    async with web() as running:
        wrong = {"step": "3", "size_px": "1.5", "color": "red", "style_share": "x", "mask": "nothing", "style_layers": "a=b"}
        wrong |= {"init": "noisy", "style_region": "nothing", "init_image": "nothing", "labels": "[]", "quality": "draft"}
        answer = await running.http.post("/v1/jobs", files=running.files(), data=wrong)
        named = fields(answer)
        assert answer.status_code == 400
        assert {"step", "parameters.size_px", "parameters.color", "style_share[0]", "mask"} <= set(named)
        assert {"parameters.init", "style_region[0]", "init_image", "labels"} <= set(named)
        assert named["step"] == "is not a field; did you mean steps?"
        assert "parameters.style_layers" in named
        assert named["output.quality"].endswith("how far the painting goes is preset='draft'")
        answer = await running.http.post("/v1/jobs", files={"content": b"GIF89a", "style": b"no picture"})
        assert fields(answer) == {
            "content": "is a GIF file that cannot be read",
            "styles[0].image": "is not a PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP or HEIC picture: upload",
        }
        answer = await running.http.post("/v1/jobs", files=running.files(), data={"size_px": "9000", "steps": "0"})
        assert set(fields(answer)) == {"parameters.size_px", "parameters.steps"}
        for body, said in (
            (b"{", "JSON"),
            (b"[1]", "JSON"),
            (b"\xff", "JSON"),
            (b"[" * 9999, ""),
        ):
            answer = await running.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, reason(answer)) == (400, "MESSAGE_GARBLED"), body[:20]
            assert said in answer.json()["message"]
        answer = await running.http.post("/v1/jobs", content=b"x", headers={"content-type": "text/plain"})
        assert (answer.status_code, reason(answer)) == (415, "MEDIA_TYPE_UNKNOWN")
        answer = await running.http.post("/v1/jobs", content=b"x", headers={"content-type": "multipart/form-data"})
        assert answer.status_code == 400
        answer = await running.http.get("/v1/jobs", params={"page_size": "many"})
        assert fields(answer)


async def test_a_form_that_is_cut_off_is_refused(web: Any) -> None:
    """In a file, in a header, before or within the closing boundary: there is no job with the rest of it."""
    async with web() as running:
        whole = running.http.build_request("POST", "/v1/jobs", files=running.files(), data={"size_px": "48", "steps": "2"})
        body, headers = whole.read(), {"content-type": whole.headers["content-type"]}
        last = body.rindex(b"\r\n--")
        for end in (0, body.index(b"style-1.png") - 5, last - 50, last, len(body) - 4, len(body) - 3):
            for path in ("/v1/jobs", "/v1/stylize", "/v1/recipe"):
                answer = await running.http.post(path, content=body[:end], headers=headers)
                assert (answer.status_code, reason(answer)) == (400, "MESSAGE_GARBLED"), (path, body[end - 20 : end])
                assert "closing boundary" in answer.json()["message"]
        assert (await running.http.get("/v1/jobs")).json() == {}
        for content in (body[:-2], body + b"what follows a form"):
            assert (await running.http.post("/v1/jobs", content=content, headers=headers)).status_code == 201


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("filename*=utf-8''caf%C3%A9.jpg", "café.jpg"),
        ("FileName* = \"UTF-8'fr'caf%C3%A9%20%22%5C.jpg\"; size=7", 'café "\\.jpg'),
        ("filename*=ISO-8859-1''caf%E9.jpg", "café.jpg"),
        ("filename*=UTF-8''caf%E9.jpg", "caf\ufffd.jpg"),
        ("filename*=hex''caf%zz", "caf%zz"),
        ("filename*=plain.jpg", "plain.jpg"),
        ('filename="a; filename*=b"', "a; filename*=b"),
        ("filename=\"plain.jpg\"; filename*=UTF-8''caf%C3%A9.jpg", "plain.jpg"),
    ],
)
async def test_a_file_may_have_only_an_extended_name(web: Any, png: Any, parameters: str, name: str) -> None:
    """As urllib3 1 and requests send names that are not ASCII; a plain name goes first."""
    async with web() as running:
        head = f'--x\r\nContent-Disposition: form-data; name="content"; {parameters}\r\n\r\n'.encode()
        style = b'\r\n--x\r\nContent-Disposition: form-data; name="style"; filename="s.png"\r\n\r\n' + png(seed=1)
        body = head + png() + style + b'\r\n--x\r\nContent-Disposition: form-data; name="validate_only"\r\n\r\n1\r\n--x--\r\n'
        answer = await running.http.post("/v1/jobs", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 200, answer.text
        sent = {item["field"]: item.get("name", "") for item in answer.json()["job"]["inputs"]}
        assert sent == {"content": name, "styles[0].image": "s.png"}


async def test_an_id_in_the_path_that_cannot_be_used_is_named(web: Any) -> None:
    """An empty one makes no job under a random id; line breaks are the id's, not those of another path."""
    async with web() as running:
        for path in ("/v1/jobs/", "/v1/jobs/x%0ay", "/v1/jobs/x%0a", "/v1/jobs/a/x%0ay/b"):
            answer = await running.http.put(path, files=running.files(), data={"size_px": "48", "steps": "2"})
            assert (answer.status_code, *fields(answer)) == (400, "request_id"), path
        assert (await running.http.get("/v1/jobs")).json() == {}


async def test_unknown_parameters_in_the_query_are_named(web: Any) -> None:
    """On every path of the API, with a similar name or those that the path takes; the page's own requests have none."""
    async with web() as running:
        http, job_id = running.http, await running.submit()
        answer = await http.get("/v1/jobs?stat=running&labels=album=n&state=queued&x=1&x=2")
        assert (answer.status_code, reason(answer)) == (400, "INVALID_FIELD")
        assert fields(answer) == {
            "stat": "is not a parameter; did you mean state?",
            "labels": "is not a parameter; did you mean label?",
            "x": "is not a parameter; the path takes state, page_size, page_token, label, created_from, created_before, owner",
        }
        for path in ("jobs", f"jobs/{job_id}", f"jobs/{job_id}/events", f"jobs/{job_id}/result", "info", f"images/{'0' * 64}"):
            answer = await http.get(f"/v1/{path}?nonsense=1")
            assert (answer.status_code, *fields(answer)) == (400, "nonsense"), path
        answer = await http.post("/v1/jobs?validate_only=true", files=running.files())
        assert fields(answer) == {"validate_only": "is not a parameter; the path takes none in the query"}
        assert len((await http.get("/v1/jobs")).json()["jobs"]) == 1
        for path in (
            "/v1/jobs?page_size=24&page_token=",
            "/v1/jobs?page_size=24&page_token=&state=running",
            "/?from=mail",
            "/readyz?probe=1",
            "/healthz?x",
        ):
            assert (await http.get(path)).status_code == 200, path
        await running.ended(job_id)
        assert (await http.get(f"/v1/jobs/{job_id}/preview?size_px=320")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "takes"),
    [
        ("GET", "/v1/stylize", "POST"),
        ("DELETE", "/v1/jobs", "GET, HEAD, POST"),
        ("POST", "/v1/jobs/x", "DELETE, GET, HEAD, PUT"),
        ("POST", "/docs", "GET, HEAD"),
        ("DELETE", "/v1/info?x=1", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, takes: str) -> None:
    """In words and in Allow, of all routes of the path."""
    async with gateway("127.0.0.1:1") as (_, url), httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answer = await http.request(method, path)
        assert (answer.status_code, reason(answer), answer.headers["allow"]) == (405, "METHOD_UNKNOWN", takes)
        assert answer.json()["message"] == f"this path does not take {method}; it takes {takes}"


async def test_every_invalid_field_of_json_is_named(web: Any, png: Any) -> None:
    """Unknown names of enumerations, values of the wrong kind and unknown fields, by the server's paths, in one answer."""
    data = base64.b64encode(png()).decode()
    spec = {
        "content": {"data": data, "imageId": "00"},
        "styles": [{"image": {"data": data}, "weight": "much"}, {"image": {"data": "a"}}, 7],
        "parameters": {
            "optimizer": "SGD", "init": "INIT_NOISY", "sizePx": 1.5, "seed": True, "stepps": 3, "color": "COLOR_MATCHED",
            "styleLayers": {"layers": [{"layer": 1, "weight": 1}]}, "schedule": {"sizePx": 64}, "tolerance": None,
        },
        "output": {"format": "GIF", "omitMetadata": "no"}, "onDeadline": "NEVER", "timeLimit": 90, "labels": {"album": 1},
    }  # fmt: skip
    async with web() as running:
        answer = await running.http.post("/v1/jobs", json={"spec": spec, "validateOnly": "yes"})
        named = fields(answer)
        assert (answer.status_code, reason(answer)) == (400, "INVALID_FIELD")
        assert set(named) == {
            "content.image_id", "styles[0].weight", "styles[1].image.data", "styles[2]", "parameters.optimizer",
            "parameters.init", "parameters.size_px", "parameters.seed", "parameters.stepps",
            "parameters.style_layers.layers[0].layer", "parameters.schedule", "output.format", "output.omit_metadata",
            "on_deadline", "time_limit", "labels", "validate_only",
        }  # fmt: skip
        assert named["parameters.optimizer"] == 'must be one of OPTIMIZER_LBFGS, OPTIMIZER_ADAM, got "SGD"'
        assert named["parameters.stepps"] == "is not a field of Parameters; did you mean steps?"
        assert named["time_limit"] == 'must be seconds as text, such as "1.5s", got 90'
        many = await running.http.post("/v1/jobs", json={"spec": {"styles": [0] * 9999}})
        assert len(fields(many)) == 50
        listed = await running.http.get("/v1/jobs", params={"state": "queued,gone,lost", "label": "x"})
        assert set(fields(listed)) == {"states", "label"}
        assert "unknown states 'gone', 'lost'" in fields(listed)["states"]


async def test_errors_have_their_http_code_and_say_when_to_retry(web: Any) -> None:
    """A full queue is 429, a server that is gone 503; both with Retry-After."""
    async with web(FakeWorker(hang=True), max_queued_jobs=1, max_running_jobs=1) as running:
        ids = [await running.submit(), await running.submit()]
        full = await running.http.post("/v1/jobs", files=running.files(), data={"size_px": "48"})
        assert (full.status_code, reason(full)) == (429, "QUEUE_FULL")
        assert int(full.headers["retry-after"]) >= 1
        assert any("retryDelay" in detail for detail in full.json()["details"])
        for job_id in ids:
            await running.http.delete(f"/v1/jobs/{job_id}")
    async with gateway("127.0.0.1:1") as (_, url), httpx.AsyncClient(base_url=url, trust_env=False) as http:
        gone = await http.get("/v1/info")
        assert (gone.status_code, gone.json()["code"]) == (503, 14)
        assert "retry-after" in gone.headers
        waits = await http.get("/readyz")
        assert (waits.status_code, waits.headers["retry-after"]) == (503, "2")
        assert (await http.get("/healthz")).status_code == 200


async def test_leaving_a_stylize_request_cancels_its_job(web: Any) -> None:
    """As over gRPC: nobody waits for it any more."""
    async with web(FakeWorker(hang=True)) as running:
        call = asyncio.create_task(running.http.post("/v1/stylize", files=running.files(), data={"size_px": "48"}))
        async with asyncio.timeout(60):
            while not (await running.http.get("/v1/jobs", params={"state": "running"})).json():
                await asyncio.sleep(0.01)
            call.cancel()
            while not (found := (await running.http.get("/v1/jobs", params={"state": "cancelled"})).json()):
                await asyncio.sleep(0.01)
        assert found["jobs"][0]["stopReason"] == "STOP_REASON_ABANDONED"


async def test_tokens_are_passed_on_and_owners_are_kept(web: Any, people: Any, monkeypatch: Any) -> None:  # noqa: F811
    """A token of the gateway itself is never used for a caller."""
    monkeypatch.setenv("IMPASTO_TOKEN", people["root"])
    async with web(tokens=people["file"]) as running:
        http, ann, bob = running.http, *({"authorization": f"Bearer {people[name]}"} for name in ("ann", "bob"))
        none = await http.get("/v1/jobs")
        assert (none.status_code, reason(none)) == (401, "TOKEN_MISSING")
        assert none.headers["www-authenticate"].startswith("Bearer")
        for wrong in ("Bearer wrong", "Bearer a\tb", "Basic abc"):
            assert (await http.get("/v1/jobs", headers={"authorization": wrong})).status_code == 401, wrong
        job = (await http.post("/v1/jobs", files=running.files(), data={"size_px": "48", "steps": "2"}, headers=ann)).json()[
            "job"
        ]
        assert job["owner"] == "ann"
        for path in ("", "/events", "/result", "/preview"):
            assert (await http.get(f"/v1/jobs/{job['jobId']}{path}", headers=bob)).status_code == 404, path
        assert (await http.get("/v1/jobs", headers=bob)).json() == {}
        assert len((await http.get("/v1/jobs", headers=ann)).json()["jobs"]) == 1


async def test_a_large_body_is_refused_without_memory(web: Any) -> None:
    """200 MB, declared or not, get 413; the memory of the process stays where it was."""
    async with web() as running:
        boundary = "multipart/form-data; boundary=x"
        head = b'--x\r\nContent-Disposition: form-data; name="content"; filename="a"\r\n\r\n'

        async def body() -> Any:
            yield head
            for _ in range(200):
                yield bytes(MIB)

        async def refused(call: Any, path: str, headers: dict[str, str]) -> httpx.Response:
            """Send the body; the connection may be reset before its answer is read, since the rest of the body is not."""
            for attempt in range(5):
                try:
                    return await call(path, content=body(), headers=headers)
                except httpx.TransportError:
                    if attempt == 4:
                        raise
            raise AssertionError("unreachable")

        process = psutil.Process()
        before = process.memory_info().rss
        chunked = await refused(running.http.post, "/v1/jobs", {"content-type": boundary})
        assert (chunked.status_code, reason(chunked)) == (413, "BODY_TOO_LARGE")
        length = {"content-type": boundary, "content-length": str(len(head) + 200 * MIB)}
        declared = await refused(running.http.post, "/v1/jobs", length)
        assert (declared.status_code, reason(declared)) == (413, "BODY_TOO_LARGE")
        assert declared.headers["connection"] == "close"
        upload = await refused(running.http.put, "/v1/images/" + "0" * 64, {"content-length": length["content-length"]})
        assert upload.status_code == 413
        assert process.memory_info().rss - before < 40 * MIB
        large = await running.http.post("/v1/jobs", content=b" " * (9 * MIB), headers={"content-type": "application/json"})
        assert large.status_code == 413
        assert await running.submit()  # it still works


async def test_uploads_stream_and_are_checked(web: Any, png: Any) -> None:
    """A file with another hash is refused; an upload needs its length; what was stored comes back."""
    async with web() as running:
        data = png(200, 200, seed=2)
        sha256 = hashlib.sha256(data).hexdigest()
        stored = await running.http.put(f"/v1/images/{sha256}", content=data)
        assert (stored.status_code, stored.json()["imageId"]) == (201, sha256)
        got = await running.http.get(f"/v1/images/{sha256}")
        assert (got.content, got.headers["content-type"]) == (data, "image/png")
        assert (await running.http.put(f"/v1/images/{'0' * 64}", content=data)).status_code == 400
        assert (await running.http.put("/v1/images/zz", content=data)).status_code == 400
        assert reason(await running.http.get(f"/v1/images/{'0' * 64}")) == "IMAGE_NOT_FOUND"

        async def pieces() -> Any:
            yield data

        chunked = await running.http.put(f"/v1/images/{sha256}", content=pieces())
        assert (chunked.status_code, reason(chunked)) == (411, "LENGTH_MISSING")


async def test_a_picture_says_how_it_was_made(web: Any) -> None:
    """The recipe is a specification; a picture without one and a file of another kind get different errors."""
    async with web() as running:
        painted = await running.http.post(
            "/v1/stylize",
            files=running.files(1, 2),
            data={"size_px": "48", "steps": "2", "color": "matched", "style_share": ["3", "1"]},
        )
        spec = (await running.http.post("/v1/recipe", content=painted.content)).json()
        assert spec["parameters"]["color"] == "COLOR_MATCHED"
        assert [style["weight"] for style in spec["styles"]] == [3, 1]
        assert spec["content"]["name"] == "photo.png"
        for other, said in (
            (running.files()[0][1][1], "has no metadata"),
            (b"no picture", "the picture: is not a PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP or HEIC picture"),
            (painted.content[:20], "cannot be read"),
            (b"", "the picture: is empty"),
        ):
            answer = await running.http.post("/v1/recipe", content=other)
            assert (answer.status_code, reason(answer)) == (400, "NO_PROVENANCE")
            assert said in answer.json()["message"]
            assert "<" not in answer.json()["message"]


async def test_a_recipe_is_read_from_a_form_with_one_file(web: Any) -> None:
    """By curl -F, whatever the field is called; other forms are told what to send."""
    async with web() as running:
        painted = await running.http.post("/v1/stylize", files=running.files(), data={"size_px": "48", "steps": "2"})
        raw = await running.http.post("/v1/recipe", content=painted.content)
        for name in ("picture", "file"):
            answer = await running.http.post("/v1/recipe", files={name: ("out.png", painted.content)})
            assert (answer.status_code, answer.json()) == (200, raw.json())
        answer = await running.http.post("/v1/recipe", files={"picture": ("out.png", b"no picture")})
        assert (answer.status_code, reason(answer)) == (400, "NO_PROVENANCE")
        two = [("a", ("a.png", painted.content)), ("b", ("b.png", painted.content))]
        for files, data in ((two, {}), (two[:1], {"x": "1"}), ({"picture": (None, "text")}, {})):
            answer = await running.http.post("/v1/recipe", files=files, data=data)
            assert (answer.status_code, reason(answer), *fields(answer)) == (400, "INVALID_FIELD", "picture")


async def test_other_sites_cannot_use_the_gateway(web: Any) -> None:
    """Foreign origins, form posts of other sites and names that resolve here are rejected; its own page is served."""
    async with web() as running:
        http, port = running.http, httpx.URL(running.url).port
        for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            answer = await http.post("/v1/jobs", files=running.files(), headers=headers)
            assert (answer.status_code, reason(answer)) == (403, "ORIGIN_FORBIDDEN"), headers
        for host in ("evil.example", f"evil.example:{port}", "[::1", ""):
            assert (await http.get("/v1/info", headers={"host": host})).status_code in (400, 421), host
        for host in ("localhost", f"127.0.0.1:{port}", "[::1]:80", "192.168.1.5"):
            assert (await http.get("/v1/info", headers={"host": host})).status_code == 200, host
        own = await http.post("/v1/jobs/x/cancel", headers={"origin": running.url.rstrip("/"), "sec-fetch-site": "same-origin"})
        assert own.status_code == 404
        assert (
            "access-control-allow-origin" not in (await http.get("/v1/info", headers={"origin": "https://a.example"})).headers
        )
        for path in ("/healthz", "/v1/info", "/nothing", "/static/none.js"):
            headers = (await http.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"], path
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"
    async with web(web={"origins": ("https://a.example",), "hosts": ("paint.example",)}) as running:
        answer = await running.http.get("/v1/info", headers={"origin": "https://a.example", "host": "paint.example"})
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        answer = await running.http.post("/v1/jobs/x/cancel", headers={"origin": "https://a.example"})
        assert answer.status_code == 404


async def test_an_allowed_origin_can_read_what_the_limits_answer(web: Any, monkeypatch: Any) -> None:
    """Too large and busy are no network errors in its scripts. Preflights are still subject to the check of hosts."""
    origin = {"origin": "https://a.example"}
    async with web(web={"origins": ("https://a.example",), "max_body_bytes": 100}) as running:
        for count, expected in ((16, (413, "BODY_TOO_LARGE")), (0, (503, "BUSY"))):
            monkeypatch.setattr("impasto.web.limits.MAX_READING", count)
            body = b" " * (101 if count else 1)
            answer = await running.http.post("/v1/jobs", content=body, headers=origin)
            assert (answer.status_code, reason(answer)) == expected
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
            assert "Retry-After" in answer.headers["access-control-expose-headers"]
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        asked = origin | {"access-control-request-method": "PUT", "access-control-request-headers": "authorization"}
        preflight = await running.http.options("/v1/jobs/x", headers=asked)
        assert preflight.status_code == 200
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        assert preflight.headers["x-content-type-options"] == "nosniff"
        foreign = await running.http.options("/v1/jobs/x", headers=asked | {"origin": "https://evil.example"})
        assert (foreign.status_code, "access-control-allow-origin" in foreign.headers) == (400, False)
        assert (await running.http.options("/v1/jobs/x", headers=asked | {"host": "[::1"})).status_code == 421


async def test_a_name_of_a_file_is_text_everywhere(web: Any, png: Any) -> None:
    """Markup, quotes and other scripts in names come back as they are, in JSON."""
    name = "a<img src=x onerror=alert(1)>&\u0416.png"
    async with web() as running:
        files = [("content", (name, png())), ("style", ("b.png", png(seed=1)))]
        answer = await running.http.post("/v1/jobs", files=files, data={"size_px": "48", "steps": "2"})
        assert answer.headers["content-type"] == "application/json"
        assert next(item["name"] for item in answer.json()["job"]["inputs"] if item["field"] == "content") == name


@pytest.mark.parametrize("header", ["Bearer é", "Bearer a b"])
async def test_a_token_that_cannot_be_sent_is_unknown(header: str) -> None:
    """It does not break the connection of others."""
    client = Gateway("127.0.0.1:1")
    with pytest.raises(Exception, match="characters"):
        client.of(header)
    await client.close()


async def test_a_caller_that_leaves_while_it_sends_is_no_fault(web: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As phones do in a tunnel: nothing is logged, and there is no job."""
    async with web() as running:
        host, port = urlsplit(running.url).hostname, urlsplit(running.url).port
        for path in ("/v1/stylize", "/v1/jobs"):
            _, writer = await asyncio.open_connection(host, port)
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            head += "Content-Length: 999999\r\n\r\n"
            writer.write(
                head.encode() + b'--x\r\nContent-Disposition: form-data; name="content"; filename="a.png"\r\n\r\n' + bytes(5000)
            )
            await writer.drain()
            await asyncio.sleep(0.2)
            writer.transport.abort()
        await asyncio.sleep(0.3)
        assert (await running.http.get("/v1/jobs")).json() == {}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
