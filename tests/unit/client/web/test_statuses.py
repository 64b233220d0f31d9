"""Errors as google.rpc.Status."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi")

from impasto import errors
from impasto.web import statuses
from impasto_server.domain.reasons import REASONS


def test_every_code_of_the_server_has_an_http_code() -> None:
    """None becomes 500 for want of a row."""
    assert {reason.code for reason in REASONS.values()} <= set(statuses.HTTP_CODES)


@pytest.mark.parametrize(
    ("error", "http"),
    [
        (errors.InvalidRequest("x", violations=(errors.Violation("size_px", "is wrong"),)), 400),
        (errors.Unavailable("x", reason="UNAVAILABLE", retry_after_s=7.2), 503),
        (errors.Unauthenticated("x"), 401),
        (errors.WaitTimeout("x"), 504),
        (errors.ServerError("x", reason="DAMAGED"), 500),
        (errors.ImpastoError("x"), 500),
    ],
)
def test_errors_of_the_client_itself_have_a_status(error: errors.ImpastoError, http: int) -> None:
    """With its reason, its fields and when to retry."""
    answer = statuses.respond(statuses.status_of(error))
    body = json.loads(answer.body)
    assert answer.status_code == http
    assert body["details"][0]["reason"] == error.reason or not error.reason
    assert ("retry-after" in answer.headers) == (http == 503)
    if error.retry_after_s:
        assert answer.headers["retry-after"] == "8"
        assert body["details"][-1]["retryDelay"] == "7.200s"
    if error.violations:
        assert body["details"][1]["fieldViolations"] == [{"field": "size_px", "description": "is wrong"}]
