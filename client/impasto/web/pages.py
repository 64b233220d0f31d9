"""The page's files, the sample pictures and the documentation: all from this package, nothing from elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
import re
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from impasto.web.statuses import HttpError
from impasto.web.thumbnails import media_type, shrunk

router = APIRouter(include_in_schema=False)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
_NAME = re.compile(r"[a-z0-9_-]+\.(html|css|js|svg|webmanifest)")
_SAMPLE = re.compile(r"[a-z0-9-]+\.jpg")
THUMBNAIL_PX = 240
REVALIDATE = "no-cache"
"""Files may change with the version: browsers ask each time, and get 304."""


def samples_folder() -> Traversable:
    """Return the folder of the sample pictures: the installed one, or that of the clone."""
    packed = importlib.resources.files("impasto") / "web" / "samples"
    return packed if packed.is_dir() else Path(__file__).parents[3] / "samples"


@lru_cache(maxsize=128)
def _file(name: str) -> tuple[bytes, str]:
    """Return a file of the page and its ETag."""
    if not _NAME.fullmatch(name):
        raise FileNotFoundError(name)
    data = (importlib.resources.files("impasto") / "web" / "static" / name).read_bytes()
    return data, _tag(data)


@lru_cache(maxsize=64)
def _sample(name: str, *, small: bool) -> tuple[bytes, str]:
    if not _SAMPLE.fullmatch(name):
        raise FileNotFoundError(name)
    data = (samples_folder() / name).read_bytes()
    data = shrunk(data, THUMBNAIL_PX) if small else data
    return data, _tag(data)


def _tag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:20]}"'


def _answer(found: tuple[bytes, str], kind: str, known: str) -> Response:
    data, tag = found
    headers = {"ETag": tag, "Cache-Control": REVALIDATE}
    if tag in known:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)


def _page(name: str, known: str) -> Response:
    try:
        return _answer(_file(name), _TYPES["." + name.rpartition(".")[2]], known)
    except (FileNotFoundError, KeyError):
        raise HttpError(404, "PATH_UNKNOWN", f"there is no file {name!r}") from None


@router.get("/")
async def index(if_none_match: Annotated[str, Header()] = "") -> Response:
    """Return the page."""
    return _page("index.html", if_none_match)


@router.get("/docs")
async def docs(if_none_match: Annotated[str, Header()] = "") -> Response:
    """Return the documentation of the API."""
    return _page("docs.html", if_none_match)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Return the description of the API."""
    return JSONResponse(request.app.openapi())


@router.get("/static/{name}")
async def static(name: str, if_none_match: Annotated[str, Header()] = "") -> Response:
    """Return a file of the page."""
    return _page(name, if_none_match)


@router.get("/samples")
async def samples() -> Response:
    """Return the names of the sample pictures: photographs and styles."""
    names = sorted(item.name for item in samples_folder().iterdir() if _SAMPLE.fullmatch(item.name))
    contents = [name for name in names if name.startswith("photo-")]
    return JSONResponse({"contents": contents, "styles": [name for name in names if name not in contents]})


@router.get("/samples/{name}")
async def sample(name: str, *, small: bool = False, if_none_match: Annotated[str, Header()] = "") -> Response:
    """Return a sample picture, or a small one for the page."""
    try:
        found = await asyncio.to_thread(_sample, name, small=small)
    except OSError:
        raise HttpError(404, "PATH_UNKNOWN", f"there is no sample {name!r}") from None
    return _answer(found, media_type(found[0]), if_none_match)
