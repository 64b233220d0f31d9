"""Places where a test lets the process die, to see that nothing is lost: IMPASTO_FAILPOINT=NAME:COUNT kills it there.

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
_deadly_pass = int(_count or 1)
_passes = itertools.count(1)


def hit(name: str) -> None:
    """Die here, as by kill -9, if this is the place and the time."""
    if name == _name and next(_passes) == _deadly_pass:
        os.kill(os.getpid(), signal.SIGKILL)
