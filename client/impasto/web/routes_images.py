"""Routes of uploaded files and of the server itself."""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
from collections.abc import AsyncIterator
from typing import IO, Any

import grpc
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile

from impasto import redo
from impasto._base import UPLOAD_TIMEOUT_S, download_request
from impasto.display import shown
from impasto.errors import ImpastoError
from impasto.protobuf_fields import invalid
from impasto.requests import PIECE_BYTES, job_spec
from impasto.v1 import style_transfer_pb2 as pb
from impasto.web.forms import FORM, media_of
from impasto.web.multipart import read_form
from impasto.web.queries import only_known
from impasto.web.routes_jobs import Caller, _first, as_json, pieces
from impasto.web.statuses import RETRY_S, HttpError
from impasto.web.thumbnails import media_type

router = APIRouter(dependencies=[Depends(only_known)])
SPOOLED_BYTES = 1 << 20
"""Larger bodies are kept on the disk while their metadata is read."""


@router.put("/v1/images/{sha256}", status_code=201, tags=["pictures"])
async def put_image(sha256: str, request: Request, client: Caller) -> Response:
    """Upload a picture's file; jobs refer to it by its SHA-256."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HttpError(411, "LENGTH_MISSING", "an upload needs a Content-Length")
    start = pb.UploadStart(sha256=sha256, size_bytes=int(length))
    failed: list[BaseException] = []
    try:
        call = client.stream("UploadImage", _chunks(request, start, failed), UPLOAD_TIMEOUT_S)
        answer = await call
    except grpc.aio.AioRpcError as error:
        raise client.error(error) from None
    except asyncio.CancelledError:
        if failed:
            raise failed[0] from None
        raise
    return as_json(answer, 201 if answer.image_id else 202)


async def _chunks(request: Request, start: Any, failed: list[BaseException]) -> AsyncIterator[Any]:
    """Yield the messages of an upload while its body arrives."""
    yield pb.UploadImageRequest(start=start)
    held = bytearray()
    try:
        async for piece in request.stream():
            held += piece
            while len(held) >= PIECE_BYTES:
                yield pb.UploadImageRequest(chunk=bytes(held[:PIECE_BYTES]))
                del held[:PIECE_BYTES]
    except Exception as error:  # the caller left, or the body is too slow: the call ends, and says why
        failed.append(error)
        raise
    if held:
        yield pb.UploadImageRequest(chunk=bytes(held))


@router.get("/v1/images/{sha256}", tags=["pictures"])
async def get_image(sha256: str, client: Caller) -> Response:
    """Return an uploaded file."""
    call = client.stream("DownloadImage", download_request(sha256, 0), UPLOAD_TIMEOUT_S)
    first = await _first(client, call)
    headers = {"Cache-Control": "no-store"}  # a browser may have several users
    return StreamingResponse(pieces(call, first), media_type=media_type(first.chunk), headers=headers)


@router.post("/v1/recipe", tags=["pictures"])
async def read_recipe(request: Request) -> Response:
    """Read how a picture was made from its metadata: the specification of the job that repeats it."""
    async with _picture(request) as file, request.app.state.gateway.shrinking:
        recipe = await asyncio.to_thread(redo.recipe_of, file, "the picture")
    return as_json(job_spec(recipe.content, recipe.styles or None, recipe.options))


@contextlib.asynccontextmanager
async def _picture(request: Request) -> AsyncIterator[IO[bytes]]:
    """Read a body that is a picture's file, or a form with that file alone; it may lie on the disk.

    Raises:
        InvalidRequest: If it is another form.
        HttpError: If it is a form that is damaged.
    """
    if media_of(request) == FORM:
        async with read_form(request) as form:
            fields = form.multi_items()
            if len(fields) != 1 or not isinstance(fields[0][1], UploadFile):
                names = shown(", ".join(name for name, _ in fields)) or "none"
                raise invalid("picture", f"the form must have one field, with the picture's file; got {names}")
            yield fields[0][1].file
        return
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as file:
        async for piece in request.stream():
            file.write(piece)
        file.seek(0)
        yield file


@router.get("/v1/info", tags=["server"])
async def get_info(client: Caller) -> Response:
    """Describe the server: version, devices, networks, presets, limits and queue."""
    return as_json(await client.call("GetServerInfo", pb.GetServerInfoRequest()))


@router.get("/healthz", tags=["server"])
async def healthz() -> Response:
    """Tell whether the gateway is alive, whatever the server is."""
    return JSONResponse({"status": "alive"})


_LATER = {"Retry-After": str(math.ceil(RETRY_S))}


@router.get("/readyz", tags=["server"])
async def readyz(request: Request) -> Response:
    """Tell whether the server behind it accepts jobs: 200 or 503."""
    try:
        found = await request.app.state.gateway.health()
    except ImpastoError as error:
        return JSONResponse({"status": "unreachable", "message": str(error)}, 503, _LATER)
    ready = found == "serving"
    return JSONResponse({"status": found}, 200 if ready else 503, None if ready else _LATER)
