"""Examples in the description of the API."""

from __future__ import annotations

from typing import Any

_PHOTO = "0d3f1f2b5e6f4a8f9c1d2e3b4a5968778695a4b3c2d1e0f102132435465768aa"
_STYLE = "9b74c9897bac770ffc029102a200c5de5f4bb6e1c0a2f8e94b6c6d1a2f3e4d5c"
FORM: dict[str, Any] = {"content": "@photo.jpg", "style": ["@painting.jpg"], "size_px": 512, "steps": 60, "color": "luminance"}
REQUEST: dict[str, Any] = {
    "spec": {
        "content": {"imageId": _PHOTO, "name": "photo.jpg"},
        "styles": [{"image": {"imageId": _STYLE, "name": "painting.jpg"}, "weight": 1}],
        "parameters": {"sizePx": 512, "steps": 60, "color": "COLOR_LUMINANCE"},
        "output": {"format": "IMAGE_FORMAT_JPEG", "previewEverySteps": 5},
    },
    "requestId": "3f0f5a2e-8d5b-4f7e-9a53-0a1c8f2d9b10",
}
_JOB: dict[str, Any] = {
    "jobId": "01kq3v7d2m9xw5hn",
    "requestId": REQUEST["requestId"],
    "state": "JOB_STATE_RUNNING",
    "createTime": "2026-11-30T09:00:00.120Z",
    "startTime": "2026-11-30T09:00:00.350Z",
    "step": 12,
    "evaluations": 12,
    "losses": {"total": 1.42, "content": 0.61, "style": 0.8, "totalVariation": 0.01},
    "widthPx": 512,
    "heightPx": 384,
    "device": "cpu",
    "estimatedEndTime": "2026-11-30T09:01:05Z",
}
ANSWERS: dict[str, Any] = {
    "SubmitJobResponse": {"job": {**_JOB, "state": "JOB_STATE_QUEUED", "step": 0, "queuePosition": 2}},
    "GetJobResponse": {"job": _JOB},
    "CancelJobResponse": {"job": {**_JOB, "state": "JOB_STATE_CANCELLED", "stopReason": "STOP_REASON_CANCELLED"}},
    "PauseJobResponse": {"job": {**_JOB, "state": "JOB_STATE_PAUSED"}},
    "ResumeJobResponse": {"job": _JOB},
    "ListJobsResponse": {"jobs": [_JOB], "nextPageToken": "7"},
    "UploadImageResponse": {"imageId": _PHOTO, "receivedBytes": "184320"},
    "JobSpec": REQUEST["spec"],
    "GetServerInfoResponse": {
        "version": "0.1.0",
        "accepting": True,
        "devices": [{"name": "cpu", "description": "a CPU", "ready": True, "autoPrecision": "PRECISION_FLOAT32"}],
        "limits": {"maxMessageBytes": "67108864", "maxSizePx": 2048, "maxStyles": 8, "maxQueuedJobs": 256},
        "queue": {"running": 1},
    },
}
_INFO = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "impasto"}
_BAD = "type.googleapis.com/google.rpc.BadRequest"
_RETRY = "type.googleapis.com/google.rpc.RetryInfo"
_SIZE = "must be from 16 to 2048, got 9000"
PROBLEMS: dict[int, Any] = {
    400: {
        "code": 3,
        "message": f"parameters.size_px: {_SIZE}",
        "details": [
            {**_INFO, "reason": "INVALID_FIELD"},
            {"@type": _BAD, "fieldViolations": [{"field": "parameters.size_px", "description": _SIZE}]},
        ],
    },
    404: {"code": 5, "message": "there is no job 'x'", "details": [{**_INFO, "reason": "JOB_NOT_FOUND"}]},
    429: {
        "code": 8,
        "message": "the queue is full",
        "details": [{**_INFO, "reason": "QUEUE_FULL"}, {"@type": _RETRY, "retryDelay": "30s"}],
    },
    503: {"code": 14, "message": "the server is shutting down", "details": [{**_INFO, "reason": "DRAINING"}]},
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "id": {"description": "Id of the job; for PUT the caller's own id.", "example": _JOB["jobId"]},
    "sha256": {"description": "SHA-256 of the file's bytes, in hex.", "example": _PHOTO},
    "state": {"description": "Only jobs in one of these states: queued, running, ...; repeated or comma-separated."},
    "page_size": {"description": "Maximum number of jobs; 0 means 50."},
    "page_token": {"description": "nextPageToken of the previous page."},
    "last-event-id": {"description": "Sequence number of the last event that the caller has.", "example": "12"},
    "after": {"description": "The same, for the first connection of an EventSource; 0 for all events."},
    "previews": {"description": "Whether steps include previews, in base64."},
    "if-none-match": {"description": "ETag of an earlier answer."},
    "size_px": {"description": "Longer side, in pixels."},
}
