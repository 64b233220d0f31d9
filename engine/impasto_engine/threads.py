"""How the threads of the numeric libraries wait for one another.

OpenMP's threads spin when they wait, by default for so long that two processes on the same cores slow one another down four to
fourteen times: each burns the time that the other needs. Spinning for a few microseconds only is as fast for a process alone
and leaves a fair share to others (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

WAITING = {
    "GOMP_SPINCOUNT": "1000",  # GNU's OpenMP, which torch's wheels for Linux carry: rounds of spinning before a thread sleeps
    "KMP_BLOCKTIME": "1",  # Intel's and LLVM's: milliseconds, 200 by default; not measured here
}
"""Variables that are set, unless the user set them or ``OMP_WAIT_POLICY``, which says the same in general."""


def share_cores(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let this process and its children wait without burning the cores.

    The libraries read the variables when they are loaded: this must run before torch is imported, which the package sees to
    when it is imported first. A process that imported torch before keeps its way of waiting; its children do not.
    """
    if "OMP_WAIT_POLICY" in environment:
        return
    for name, value in WAITING.items():
        environment.setdefault(name, value)
