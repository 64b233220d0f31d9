"""Write docs/ERRORS.md from the table of reasons. `make errors` runs it; a test sees that the page is what it would write."""

from __future__ import annotations

from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2

from impasto.errors import from_status
from impasto_server.domain.reasons import DOMAIN, REASONS, Reason

PAGE = Path(__file__).parents[1] / "docs/ERRORS.md"


OF_CLIENT = {
    "INVALID_FIELD": ("InvalidRequest", "An option has a value of the wrong kind; all such are named."),
    "UNREADABLE": ("InvalidRequest", "A file cannot be read."),
    "MESSAGE_TOO_LARGE": ("InvalidRequest", "The pictures are larger than the server takes in one message; upload them."),
    "NO_PROVENANCE": ("InvalidRequest", "The picture does not say how it was made (redo)."),
    "UNAVAILABLE": ("Unavailable", "No server answers there."),
    "TLS_FAILED": ("Unavailable", "The server's certificate is not trusted, is for another name, or it speaks no TLS."),
    "SILENT": ("Unavailable", "A watched server has said nothing for half a minute."),
    "DEADLINE_EXCEEDED": ("DeadlineExceeded", "The time given to the call was not enough."),
}


def exception(name: str, reason: Reason) -> str:
    """Return the exception of the Python client."""
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN))
    code = getattr(grpc.StatusCode, reason.code)
    return type(from_status(code, "", status.SerializeToString(), "")).__name__


def page() -> str:
    """Return the whole page."""
    lines = [
        "# Errors",
        "",
        "Made by `make errors` from `server/impasto_server/domain/reasons.py`; don't edit it. Every error carries",
        f'google.rpc.ErrorInfo with domain "{DOMAIN}" and one of these reasons, which do not change. INVALID_ARGUMENT also',
        "carries BadRequest with every field that is wrong, what can be tried again RetryInfo, what is not found ResourceInfo,",
        "FAILED_PRECONDITION PreconditionFailure. A job that failed has its reason in `Job.error`. The Python client raises",
        "the exception named, with `reason`, `metadata`, `violations` and `retry_after_s`.",
        "",
        "| reason | code | exception | meaning | what to do | metadata |",
        "|---|---|---|---|---|---|",
    ]
    for name, reason in REASONS.items():
        keys = ", ".join(f"`{key}`" for key in reason.metadata)
        job = " Also of jobs." if reason.of_job else ""
        kind = exception(name, reason)
        lines.append(f"| `{name}` | {reason.code} | `{kind}` | {reason.meaning}{job} | {reason.advice} | {keys} |")
    lines += [
        "",
        "The Python client makes some itself, before or without a server's answer:",
        "",
        "| reason | exception | meaning |",
        "|---|---|---|",
        *(f"| `{name}` | `{kind}` | {meaning} |" for name, (kind, meaning) in OF_CLIENT.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
