"""Routes of jobs: submit, list, watch, control, fetch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

import grpc
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from google.protobuf import json_format
from starlette.convertors import Convertor, register_url_convertor

from impasto._base import UPLOAD_TIMEOUT_S, result_request, stylize_request, submit_request
from impasto.protobuf_fields import Problems, invalid
from impasto.requests import labels_of, list_request
from impasto.v1 import style_transfer_pb2 as pb
from impasto.web import events
from impasto.web.forms import Body, read_body
from impasto.web.gateway import Gateway
from impasto.web.queries import only_known
from impasto.web.statuses import HttpError
from impasto.web.thumbnails import media_type, shrunk

router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=[Depends(only_known)])
PREVIEW_PX, MAX_PREVIEW_PX = 256, 1024
LARGEST_RESPONSE = 1 << 16
"""Results are not taken with a response but downloaded in chunks."""
STATE = "JOB_STATE_"


class _AnyText(Convertor[str]):
    """Takes the rest of a path, whatever is in it: the server tells which ids it does not take."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """Return the text."""
        return value

    def to_string(self, value: str) -> str:
        """Return the text."""
        return value


register_url_convertor("any_text", _AnyText())


async def caller(request: Request, authorization: Annotated[str, Header(include_in_schema=False)] = "") -> Gateway:
    """Return the client that calls the server as the caller of a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway.of(authorization)


Caller = Annotated[Gateway, Depends(caller)]


def as_json(message: Any, code: int = 200) -> JSONResponse:
    """Return a message of the contract in its JSON mapping."""
    return JSONResponse(json_format.MessageToDict(message), code, {"Cache-Control": "no-store"})


async def _body(request: Request) -> AsyncIterator[Body]:
    async with read_body(request) as body:
        yield body


ReadBody = Annotated[Body, Depends(_body)]


@router.post("/stylize", tags=["pictures"])
async def stylize(request: Request, client: Caller, body: ReadBody) -> Response:
    """Paint a picture and answer with it. The job ends if the caller leaves."""
    async with client.sending:
        asked = await body.message(pb.StylizeRequest)
        asked = stylize_request(asked.spec, asked.request_id)
        asked.max_response_bytes = LARGEST_RESPONSE
        await client.prepare(asked.spec)
    painting = asyncio.ensure_future(client.call("Stylize", asked, None))
    del asked
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({painting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not painting.done():
            return Response(status_code=499)  # nobody reads it
        job = painting.result().result.job
    finally:
        painting.cancel()
        leaving.cancel()
    return await _result(client, job.job_id, "")


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.post("/jobs", status_code=201)
async def submit_job(client: Caller, body: ReadBody) -> Response:
    """Accept a job and answer at once. It continues whether or not the caller stays."""
    return await _submitted(client, body, "")


@router.put("/jobs/{id:any_text}", status_code=201)
async def put_job(id: str, client: Caller, body: ReadBody) -> Response:  # noqa: A002 - the path's name in the API
    """Accept a job under an id of the caller, which makes the call safe to repeat."""
    if not id:
        raise invalid("request_id", "is empty; it is the last part of the path, PUT /v1/jobs/ID")
    return await _submitted(client, body, id)


async def _submitted(client: Gateway, body: Body, request_id: str) -> Response:
    async with client.sending:
        asked = await body.message(pb.SubmitJobRequest, request_id)
        if not asked.validate_only:
            asked = submit_request(asked.spec, asked.request_id)
        answer = await client.submit_spec(asked)
    response = as_json(answer, 200 if asked.validate_only else 201)
    if answer.job.job_id:
        response.headers["Location"] = f"/v1/jobs/{answer.job.job_id}"
    return response


@router.get("/jobs")
async def list_jobs(
    client: Caller,
    state: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI copies it
    page_size: Annotated[int, Query(ge=0, le=500)] = 0,
    page_token: Annotated[str, Query(max_length=200)] = "",
    label: Annotated[list[str], Query(description="NAME=VALUE; a job must have all that are given.")] = [],  # noqa: B006
    created_from: datetime | None = None,
    created_before: datetime | None = None,
    owner: str = "",
) -> Response:
    """List jobs, newest first, in pages."""
    collect = Problems()
    labels = collect(labels_of, label, "label")
    asked = collect(list_request, _states(state), labels, created_from, created_before, owner)
    collect.check()
    asked.page_size, asked.page_token = page_size, page_token
    return as_json(await client.call("ListJobs", asked))


def _states(given: list[str]) -> list[str]:
    """Return states as words, given so (queued) or as in the contract (JOB_STATE_QUEUED)."""
    words = [word.strip().lower() for text in given for word in text.split(",")]
    return [word.removeprefix(STATE.lower()) for word in words if word]


@router.get("/jobs/{id}")
async def get_job(id: str, client: Caller) -> Response:  # noqa: A002
    """Return the current state of a job."""
    return as_json(await client.call("GetJob", pb.GetJobRequest(job_id=id)))


@router.post("/jobs/{id}/cancel")
async def cancel_job(id: str, client: Caller) -> Response:  # noqa: A002
    """Cancel a job; a running job stops at its next step."""
    return as_json(await client.call("CancelJob", pb.CancelJobRequest(job_id=id)))


@router.post("/jobs/{id}/pause")
async def pause_job(id: str, client: Caller) -> Response:  # noqa: A002
    """Pause a job; it keeps its steps."""
    return as_json(await client.call("PauseJob", pb.PauseJobRequest(job_id=id)))


@router.post("/jobs/{id}/resume")
async def resume_job(id: str, client: Caller) -> Response:  # noqa: A002
    """Resume a paused job where it stopped."""
    return as_json(await client.call("ResumeJob", pb.ResumeJobRequest(job_id=id)))


@router.delete("/jobs/{id}", status_code=204)
async def delete_job(id: str, client: Caller) -> Response:  # noqa: A002
    """Cancel a job if it has not ended, and delete it, its events and its pictures."""
    await client.call("DeleteJob", pb.DeleteJobRequest(job_id=id))
    return Response(status_code=204)


@router.get("/jobs/{id}/events")
async def job_events(
    id: str,  # noqa: A002
    client: Caller,
    last_event_id: Annotated[str | None, Header()] = None,
    after: Annotated[str | None, Query()] = None,
    previews: Annotated[bool, Query()] = False,
) -> Response:
    """Watch a job by server-sent events; Last-Event-ID resumes."""
    resumed = events.last_event(after, "after") if last_event_id is None else events.last_event(last_event_id)
    return await events.respond(client, id, resumed, previews=previews)


@router.get("/jobs/{id}/result", tags=["pictures"])
async def job_result(id: str, client: Caller, if_none_match: Annotated[str, Header()] = "") -> Response:  # noqa: A002
    """Return the picture of a job that has succeeded."""
    return await _result(client, id, if_none_match)


async def _result(client: Gateway, job_id: str, known: str) -> Response:
    call = client.stream("DownloadResult", result_request(job_id, 0), UPLOAD_TIMEOUT_S)
    first = await _first(client, call)
    tag = f'"{first.sha256}"'
    if tag in known:
        call.cancel()
        return Response(status_code=304, headers={"ETag": tag})
    kind = media_type(first.chunk)
    headers = {
        "ETag": tag,
        "Content-Length": str(first.size_bytes),
        "Content-Disposition": f'inline; filename="impasto-{job_id}.{kind.rpartition("/")[2].replace("jpeg", "jpg")}"',
        "Cache-Control": "private, no-cache",
        "Impasto-Job-Id": job_id,
    }
    return StreamingResponse(pieces(call, first), media_type=kind, headers=headers)


async def _first(client: Gateway, call: Any) -> Any:
    """Return a download's first message.

    Raises:
        ImpastoError: If the server refuses it.
    """
    try:
        first = await call.read()
    except grpc.aio.AioRpcError as error:
        raise client.error(error) from None
    if first is grpc.aio.EOF:
        raise invalid("id", "is an empty file")
    return first


async def pieces(call: Any, first: Any) -> AsyncIterator[bytes]:
    """Yield a download's chunks; it ends with the caller."""
    try:
        message = first
        while message is not grpc.aio.EOF:
            yield message.chunk
            message = await call.read()
    finally:
        call.cancel()


@router.get("/jobs/{id}/preview", tags=["pictures"])
async def job_preview(
    id: str,  # noqa: A002
    client: Caller,
    size_px: Annotated[int, Query(ge=16, le=MAX_PREVIEW_PX)] = PREVIEW_PX,
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """Return a small JPEG: of the result if the job has succeeded, else the newest preview."""
    job = (await client.call("GetJob", pb.GetJobRequest(job_id=id))).job
    headers = {"ETag": f'"{id}-{job.state}-{job.step}-{size_px}"', "Cache-Control": "private, no-cache"}
    if headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    if job.state == pb.JOB_STATE_SUCCEEDED:
        async with client.shrinking:
            data = await client._pieces(client._stub.DownloadResult, lambda at: result_request(id, at))
            small = await asyncio.to_thread(shrunk, data, size_px)
    else:
        small = await _newest_preview(client, id)
    return Response(small, media_type="image/jpeg", headers=headers)


async def _newest_preview(client: Gateway, job_id: str) -> bytes:
    """Return a job's newest preview. The server keeps only that one, so the first that its events have is the newest.

    Raises:
        HttpError: If there is none.
    """
    last = await _first(client, call := client.stream("Progress", pb.ProgressRequest(job_id=job_id), UPLOAD_TIMEOUT_S))
    call.cancel()
    asked = pb.ProgressRequest(job_id=job_id, resume_after_sequence=0, include_previews=True)
    call = client.stream("Progress", asked, UPLOAD_TIMEOUT_S)
    try:
        message = await _first(client, call)
        while message is not grpc.aio.EOF:
            if message.step.preview.data:
                return bytes(message.step.preview.data)
            if message.sequence >= last.sequence:
                break
            message = await call.read()
    except grpc.aio.AioRpcError as error:
        raise client.error(error) from None
    finally:
        call.cancel()
    text = f"job {job_id} has no preview: it asked for none (previewEverySteps), or has not done enough steps"
    raise HttpError(404, "PREVIEW_NOT_FOUND", text)
