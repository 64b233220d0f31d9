"""The description of the API: bodies and answers from the contract, with examples."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from impasto.contract import descriptions
from impasto.requests import ENUMS
from impasto.v1 import style_transfer_pb2 as pb
from impasto.web import examples
from impasto.web.forms import FORM, JSON, OPTIONS, PICTURES, option_field
from impasto.web.schemas import comment, ref, schemas
from impasto.words import words

ABOUT = """Neural style transfer over HTTP, beside gRPC: the same jobs, the same owners, the same errors.

    curl -F content=@photo.jpg -F style=@painting.jpg http://localhost:8080/v1/stylize -o out.png

Answers are the contract's messages in protobuf's JSON mapping: names in lowerCamelCase, int64 as text, durations as `"1.5s"`,
fields with the value 0, false or "" left out. Errors are `google.rpc.Status`, whose first detail has a stable reason
(docs/reference/errors.md). Where the server wants a token, send `Authorization: Bearer TOKEN`."""
PNG = {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}}
PICTURE = {kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in ("image/png", "image/jpeg", "image/webp")}
JPEG = {"image/jpeg": {"schema": {"type": "string", "contentMediaType": "image/jpeg"}}}
UPLOAD = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("application/octet-stream", *PICTURE)}
_RECIPE_FORM = {
    "type": "object",
    "properties": {"picture": {"type": "string", "format": "binary"}},
    "required": ["picture"],
    "additionalProperties": False,
}
_KINDS = ["snapshot", "start", "step", "pause", "heartbeat", "result", "status"]
EVENTS = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "properties": {
                "event": {
                    "type": "string",
                    "enum": _KINDS,
                    "description": "What happened; status: the server ended the stream.",
                },
                "id": {"type": "string", "pattern": r"^\d+$", "description": "The sequence number, for Last-Event-ID."},
                "data": {"type": "string", "contentMediaType": JSON, "contentSchema": ref("ProgressResponse")},
                "retry": {"type": "integer"},
            },
        }
    }
}
_RPC = {
    "stylize": "Stylize",
    "submit_job": "SubmitJob",
    "put_job": "SubmitJob",
    "list_jobs": "ListJobs",
    "get_job": "GetJob",
    "cancel_job": "CancelJob",
    "pause_job": "PauseJob",
    "resume_job": "ResumeJob",
    "delete_job": "DeleteJob",
    "job_events": "Progress",
    "job_result": "DownloadResult",
    "put_image": "UploadImage",
    "get_image": "DownloadImage",
    "get_info": "GetServerInfo",
}
"""The contract's method behind each operation."""
_ANSWERS: Mapping[str, tuple[tuple[int, str, Any], ...]] = {
    "stylize": ((200, "The picture.", PICTURE),),
    "submit_job": (
        (201, "The job was accepted.", "SubmitJobResponse"),
        (200, "It is valid (validateOnly).", "SubmitJobResponse"),
    ),
    "put_job": ((201, "The job was accepted.", "SubmitJobResponse"), (200, "It is valid (validateOnly).", "SubmitJobResponse")),
    "list_jobs": ((200, "A page of jobs.", "ListJobsResponse"),),
    "get_job": ((200, "The job.", "GetJobResponse"),),
    "cancel_job": ((200, "The job.", "CancelJobResponse"),),
    "pause_job": ((200, "The job.", "PauseJobResponse"),),
    "resume_job": ((200, "The job.", "ResumeJobResponse"),),
    "delete_job": ((204, "The job was deleted.", None),),
    "job_events": (
        (200, "Events; the id of each is its sequence number.", EVENTS),
        (204, "There are no more events: the caller has the last one.", None),
    ),
    "job_result": ((200, "The picture.", PICTURE), (304, "It is the one that the caller has (If-None-Match).", None)),
    "job_preview": ((200, "The preview.", JPEG), (304, "It is the one that the caller has (If-None-Match).", None)),
    "put_image": ((201, "The file is stored.", "UploadImageResponse"), (202, "A part of it is stored.", "UploadImageResponse")),
    "get_image": ((200, "The file.", {**PICTURE, "application/octet-stream": {"schema": {"type": "string"}}}),),
    "read_recipe": ((200, "The specification; its pictures are ids of uploads.", "JobSpec"),),
    "get_info": ((200, "The server.", "GetServerInfoResponse"),),
    "healthz": ((200, "Alive.", "Health"),),
    "readyz": ((200, "The server accepts jobs.", "Health"), (503, "It does not.", "Health")),
}
_BODIES = ("stylize", "submit_job", "put_job")
_ROOTS = (
    pb.StylizeRequest, pb.SubmitJobRequest, pb.SubmitJobResponse, pb.ListJobsResponse, pb.GetJobResponse, pb.CancelJobResponse,
    pb.PauseJobResponse, pb.ResumeJobResponse, pb.UploadImageResponse, pb.GetServerInfoResponse, pb.ProgressResponse,
)  # fmt: skip
_PROBLEMS = {
    400: "Invalid: BadRequest in the details names every field. Also a job without a picture (JOB_HAS_NO_RESULT).",
    401: "The server wants a token, or does not know this one.",
    403: "A request of another site.",
    404: "There is no such job, file or path.",
    405: "The path has other methods.",
    408: "The body stopped arriving.",
    409: "The job failed because its worker was lost.",
    411: "An upload without Content-Length.",
    413: "The body is too large.",
    415: "The body is neither a form nor JSON.",
    421: "The gateway is not reached under this name.",
    429: "Queue full, quota reached or not enough memory; Retry-After says when to try again.",
    499: "The job was cancelled.",
    500: "The server failed.",
    501: "The server is older than this gateway.",
    503: "The server is unavailable, starts or stops; Retry-After says when to try again.",
    504: "The job reached its time limit, or the server did not answer in time.",
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the app."""
    version = importlib.metadata.version("impasto")
    document = get_openapi(title="impasto", version=version, description=ABOUT, routes=app.routes)
    found = schemas(*(message.DESCRIPTOR for message in _ROOTS))
    health = {"type": "object", "properties": {"status": {"type": "string"}, "message": {"type": "string"}}}
    document["components"] = {
        "schemas": {**found, "Status": _status(), "Health": health, "Form": _form()},
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Where the server wants one."}},
    }
    document["security"] = [{}, {"token": []}]
    for operations in document["paths"].values():
        for operation in operations.values():
            _complete(operation)
    return document


def _complete(operation: dict[str, Any]) -> None:
    # FastAPI's ids end with the path and the method.
    name = operation["operationId"].partition("_v1_")[0].removesuffix("_healthz_get").removesuffix("_readyz_get")
    operation["operationId"] = name
    operation["description"] = f"{operation.get('description', '')}\n\n{_said(name)}".strip()
    operation["responses"] = {}
    for code, text, kind in _ANSWERS[name]:
        operation["responses"][str(code)] = _answer(text, kind)
    for code, text in _PROBLEMS.items():
        if str(code) not in operation["responses"]:
            operation["responses"][str(code)] = _problem(code, text)
    if name in _BODIES:
        kind = "StylizeRequest" if name == "stylize" else "SubmitJobRequest"
        body = {
            FORM: {"schema": ref("Form"), "examples": {"pictures": {"value": examples.FORM}}},
            JSON: {"schema": ref(kind), "examples": {"uploaded": {"value": examples.REQUEST}}},
        }
        operation["requestBody"] = {"required": True, "content": body}
    elif name == "put_image":
        operation["requestBody"] = {"required": True, "content": UPLOAD}
    elif name == "read_recipe":
        operation["requestBody"] = {"required": True, "content": {**UPLOAD, FORM: {"schema": _RECIPE_FORM}}}
    for parameter in operation.get("parameters", ()):
        parameter["schema"].pop("title", None)
        parameter.update(examples.PARAMETERS.get(parameter["name"], {}))


def _said(name: str) -> str:
    rpc = _RPC.get(name)
    return f"Over gRPC: `{rpc}`. {descriptions()[rpc]}" if rpc else ""


def _answer(text: str, kind: Any) -> dict[str, Any]:
    if kind is None:
        return {"description": text}
    if not isinstance(kind, str):
        return {"description": text, "content": kind}
    content: dict[str, Any] = {"schema": ref(kind)}
    if kind in examples.ANSWERS:
        content["examples"] = {"example": {"value": examples.ANSWERS[kind]}}
    return {"description": text, "content": {JSON: content}}


def _problem(code: int, text: str) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": ref("Status")}
    if code in examples.PROBLEMS:
        content["examples"] = {"example": {"value": examples.PROBLEMS[code]}}
    answer: dict[str, Any] = {"description": text, "content": {JSON: content}}
    if code in (429, 503):
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return answer


def _status() -> dict[str, Any]:
    details = {"type": "array", "items": {"type": "object", "properties": {"@type": {"type": "string"}}}}
    properties = {
        "code": {"type": "integer", "description": "Number of a google.rpc.Code."},
        "message": {"type": "string"},
        "details": {**details, "description": "ErrorInfo first; BadRequest, RetryInfo and others where they help."},
    }
    return {"type": "object", "description": "google.rpc.Status: what went wrong.", "properties": properties}


def _form() -> dict[str, Any]:
    """Return the schema of a form: pictures as files or ids, everything else as text."""
    file = {"type": "string", "format": "binary"}
    said = {
        "content": comment("JobSpec", "content"),
        "style": "The styles: one field for each, in order. " + comment("JobSpec", "styles"),
        "style_mask": "For each style in order, or empty. " + comment("Style", "mask"),
        "style_region": "For each style in order, or empty. " + comment("Style", "region"),
        "mask": comment("JobSpec", "mask"),
        "init_image": comment("JobSpec", "init_image"),
    }
    properties: dict[str, Any] = {}
    for name in PICTURES:
        many = name.startswith("style")
        text = f"{said[name]} A file, or `sha256:HEX` for an uploaded one."
        properties[name] = {"type": "array", "items": file, "description": text} if many else {**file, "description": text}
    weights = {"type": "array", "items": {"type": "number"}}
    properties["style_share"] = {**weights, "description": "For each style in order. " + comment("Style", "weight")}
    for name in OPTIONS:
        properties[name] = _option(name)
    properties["request_id"] = {"type": "string", "description": comment("StylizeRequest", "request_id")}
    properties["validate_only"] = {"type": "boolean", "description": comment("SubmitJobRequest", "validate_only")}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _option(name: str) -> dict[str, Any]:
    if name in ("time_limit_s", "ttl_s"):
        return {"type": "number", "description": f"In seconds. {comment('JobSpec', name.removesuffix('_s'))}"}
    _, field = option_field(name)
    text = comment(field.containing_type.name, name)
    if name in ENUMS:
        return {"type": "string", "enum": list(words(ENUMS[name])), "description": text}
    if name == "labels":
        return {"type": "string", "description": text, "examples": ['{"album": "norway"}']}
    if name.endswith("_layers"):
        return {"type": "string", "description": text, "examples": ["relu1_1=1,relu2_1=0.5"]}
    if name == "schedule":
        return {"type": "string", "description": text, "examples": ["256:100,512:50"]}
    kinds = {field.CPPTYPE_BOOL: "boolean", field.CPPTYPE_DOUBLE: "number", field.CPPTYPE_STRING: "string"}
    return {"type": kinds.get(field.cpp_type, "integer"), "description": text}
