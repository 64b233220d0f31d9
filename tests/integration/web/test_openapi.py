"""Requests made from the description of the API: none breaks the gateway, and every answer is as described."""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES = 12
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def fuzz(url: str, job_id: str) -> int:
    """Send random requests to every operation; return how many."""
    count = 0
    schema = schemathesis.openapi.from_url(f"{url}openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(), known=hypothesis.strategies.booleans())
        def one(case: Any, known: bool) -> None:
            nonlocal count
            if known and case.method == "GET" and "id" in (case.path_parameters or {}):
                case.path_parameters["id"] = job_id  # what exists answers with more than 404
            case.call_and_validate(base_url=url, checks=CHECKS, timeout=180)
            count += 1

        one()
    return count


@pytest.mark.timeout(400)  # ten seconds where nothing else runs
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_no_request_breaks_the_gateway(web: Any) -> None:
    """A few hundred requests to all operations: no 5xx, and codes, types and bodies as described."""
    async with web() as running:
        job_id = await running.submit()
        await running.ended(job_id)
        count = await asyncio.to_thread(fuzz, running.url, job_id)
        assert count > 100
        assert (await running.http.get("/v1/info")).status_code == 200
