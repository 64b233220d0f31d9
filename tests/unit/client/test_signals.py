"""Signals to the command line, from its first instant on."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from impasto.signals import stopping

NAMED = "import os, signal, sys; sys.argv[0] = '/usr/bin/impasto'; "


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_during_the_imports_is_a_line(name: str) -> None:
    """Not a traceback of whatever was imported."""
    code = NAMED + f"import impasto.quiet; os.kill(os.getpid(), signal.{name}); input()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def test_other_programs_keep_their_handlers() -> None:
    """Only the command line is ended in this way."""
    code = "import signal; before = signal.getsignal(signal.SIGTERM); import impasto; "
    code += "assert signal.getsignal(signal.SIGTERM) is before"
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)


def test_nohup_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has SIGHUP ignored; SIGINT is ignored in the background of scripts, and stops all the same."""
    monkeypatch.setattr(signal, "getsignal", lambda _number: signal.SIG_DFL)
    assert stopping() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    monkeypatch.setattr(signal, "getsignal", lambda _number: signal.SIG_IGN)
    assert stopping() == [signal.SIGINT, signal.SIGTERM]
