"""Points where a test kills the process to check that nothing is lost: IMPASTO_FAILPOINT=NAME:COUNT kills it there.

Nothing happens unless the variable is set; the cost is one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal

VARIABLE = "IMPASTO_FAILPOINT"
NAMES = (
    "admit.before_commit",
    "admit.after_commit",
    "checkpoint.before_write",
    "checkpoint.between_pairs",
    "checkpoint.after_pairs",
    "checkpoint.before_fsync",
    "checkpoint.before_rename",
    "checkpoint.after_rename",
    "state.before_commit",
    "state.after_commit",
    "progress.before_send",
    "progress.after_send",
    "result.before_commit",
    "result.after_commit",
)

_name, _, _count = os.environ.get(VARIABLE, "").partition(":")
_fatal_pass = int(_count or 1)
_passes = itertools.count(1)


def hit(name: str) -> None:
    """Kill the process here, as by kill -9, if this is the configured point and pass."""
    if name == _name and next(_passes) == _fatal_pass:
        os.kill(os.getpid(), signal.SIGKILL)
