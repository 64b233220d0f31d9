"""The short form of the fuzz run; `make soak` does 100,000 inputs."""

from __future__ import annotations

import asyncio

from tests.soak.fuzz import fuzz, leaks


def test_nothing_that_a_message_or_a_file_can_hold_breaks_the_service() -> None:
    """No INTERNAL, every refusal explained, nothing left behind."""
    findings = asyncio.run(fuzz(2000, seed=7))
    assert findings.wrong == []
    assert list(leaks(findings, allowed_mb=40)) == []
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "picture opened", "picture refused"} <= set(findings.codes)
