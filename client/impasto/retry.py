"""When to retry, and for how long: shared by both clients.

Every retried call is idempotent: reads change nothing, commands end in the same state, and a job has a ``request_id`` that
makes the server join it instead of starting another. If no connection to the server was ever established, a call is not
retried: the address is probably wrong.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

from impasto.connect_errors import CONNECTION_LOST
from impasto.errors import ImpastoError, Unavailable
from impasto.protobuf_fields import invalid

DEFAULT_S = 60.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 5.0
UNBOUNDED_S = 1e8
"""A longer timeout, of more than three years, is none; gRPC takes none that is much longer."""
TOLD_S = 1.0
"""How long a server may be unavailable before that is worth telling."""


class Deadline:
    """The instant at which a call ends, whatever it consists of.

    Args:
        timeout_s: Seconds from now; None, or very many, for none.

    Raises:
        InvalidRequest: If the timeout is not a number.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        if timeout_s is not None and math.isnan(timeout_s):
            raise invalid("timeout_s", "must be a number of seconds, got nan")
        self._at = None if timeout_s is None or timeout_s >= UNBOUNDED_S else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, a millisecond at least, as gRPC takes them; None for no bound."""
        return None if self._at is None else max(0.001, self._at - time.monotonic())

    def is_before(self, delay_s: float) -> bool:
        """Whether it is reached within a number of seconds from now."""
        return self._at is not None and time.monotonic() + delay_s > self._at


class Reachability:
    """Tells once that a server is unavailable and its calls are retried, and once that it answers again. It is thread-safe.

    Args:
        lost: Called with the error of a call when no call was answered for :data:`TOLD_S`.
        back: Called when the server answers after that.
    """

    def __init__(self, lost: Callable[[ImpastoError], None], back: Callable[[], None]) -> None:
        self._lost, self._back = lost, back
        self._lock = threading.Lock()
        self._since: float | None = None
        self._told = False

    def failed(self, error: ImpastoError) -> None:
        """Note that a call is retried."""
        now = time.monotonic()
        with self._lock:
            self._since = now if self._since is None else self._since
            tell, self._told = not self._told and now - self._since >= TOLD_S, self._told or now - self._since >= TOLD_S
        if tell:
            self._lost(error)

    def answered(self) -> None:
        """Note that a call was answered."""
        if self._since is None:
            return
        with self._lock:
            tell, self._told, self._since = self._told, False, None
        if tell:
            self._back()


class Retry:
    """Decides whether to retry one call while the server is unavailable. Create one for each call.

    Args:
        limit_s: How long the server may be unavailable without interruption; 0 to try only once.
        answered: Whether a connection was ever established.
        deadline: Bound on all attempts together.
        attempt_s: Bound on each attempt, if given.
        reachability: Is told of failures and answers.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        answered: bool,
        deadline: Deadline | None = None,
        attempt_s: float | None = None,
        reachability: Reachability | None = None,
    ) -> None:
        self._limit_s = limit_s
        self._attempt_s = attempt_s
        self._reachability = reachability
        self._deadline = deadline or Deadline()
        self._ever_answered = answered
        self._delay_s = _FIRST_DELAY_S
        self._unavailable_since: float | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds for the next attempt; None for no bound."""
        bounds = [bound for bound in (self._deadline.left_s, self._attempt_s) if bound is not None]
        return min(bounds, default=None)

    def reset(self) -> None:
        """Note that the server answers again."""
        self._ever_answered = True
        self._unavailable_since = None
        self._delay_s = _FIRST_DELAY_S
        if self._reachability is not None:
            self._reachability.answered()

    def delay(self, error: ImpastoError) -> float:
        """Return the seconds after which to retry.

        Raises:
            ImpastoError: The error itself, if it cannot be retried or the time is over.
        """
        now = time.monotonic()
        # The server's own errors, such as DRAINING, have its status: the address is right.
        self._ever_answered = self._ever_answered or error.reason == CONNECTION_LOST or error.status is not None
        self._unavailable_since = self._unavailable_since if self._unavailable_since is not None else now
        delay_s = self._delay_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads the clients of one server
        if (
            self._deadline.is_before(delay_s)
            or not self._ever_answered
            or not isinstance(error, Unavailable)
            or now - self._unavailable_since + delay_s > self._limit_s
        ):
            if self._reachability is not None and not isinstance(error, Unavailable):
                self._reachability.answered()
            raise error from None
        if self._reachability is not None:
            self._reachability.failed(error)
        self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)
        return delay_s
