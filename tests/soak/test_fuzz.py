"""The short form of the fuzz run; `make soak` runs 100,000 inputs."""

from __future__ import annotations

import asyncio

from tests.soak.fuzz import fuzz, leaks


def test_nothing_that_a_message_or_a_file_can_hold_breaks_the_service() -> None:
    """No INTERNAL, every rejection has error details, no leaks."""
    findings = asyncio.run(fuzz(2000, seed=7))
    assert findings.wrong == []
    assert list(leaks(findings, allowed_mb=40)) == []
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "picture opened", "picture rejected"} <= set(findings.codes)
