"""Wait policy of the numeric libraries' threads.

OpenMP threads spin while they wait. With the default spin time, two processes on the same cores slow each other down four to
fourteen times, because each uses up the time that the other needs. Spinning for only a few microseconds is as fast for a single
process and leaves a fair share to others (docs/lab/performance.md).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

WAITING = {
    "GOMP_SPINCOUNT": "1000",  # GNU OpenMP, bundled with torch's Linux wheels: spin iterations before a thread sleeps
    "KMP_BLOCKTIME": "1",  # Intel and LLVM OpenMP: milliseconds, 200 by default; not measured here
}
"""Environment variables to set. A variable that the user has set is kept; ``OMP_WAIT_POLICY`` disables all of them."""


def share_cores(environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit spinning in this process and its children.

    The libraries read the variables when they are loaded, so this must run before torch is imported. The package does so when
    it is imported before torch. A process that has already imported torch keeps its wait policy; its children do not.
    """
    if "OMP_WAIT_POLICY" in environment:
        return
    for name, value in WAITING.items():
        environment.setdefault(name, value)
