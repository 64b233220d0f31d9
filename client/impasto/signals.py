"""Signals that end a program of the command line."""

import signal


def stopping() -> list[int]:
    """Return SIGINT, SIGTERM, and SIGHUP unless it is ignored, as nohup has it; those that the platform has."""
    found = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [
        number
        for number in found
        if number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) is not signal.SIG_IGN
    ]
