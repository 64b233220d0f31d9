"""Signals that end a program of the command line."""

import signal


def stopping() -> list[signal.Signals]:
    """Return SIGINT, SIGTERM, and SIGHUP unless it is ignored, as nohup has it; those that the platform has."""
    found = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    return found if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN else [*found, hangup]
