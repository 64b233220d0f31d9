"""Makes the command line quiet before anything else is imported; other programs that use the client are not affected.

gRPC's own log on stderr (failed handshakes and the like) is disabled: the client's errors contain what matters, and gRPC reads
the variable when it is imported. A signal during the imports ends the command with a line instead of a traceback;
:func:`impasto.cli.main.main` has handlers of its own.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from impasto.signals import stopping


def _end(_number: int, _frame: object) -> None:
    with contextlib.suppress(OSError):  # stderr is closed, or full
        os.write(2, b"Interrupted.\n")
    os._exit(130)


if sys.argv and (Path(sys.argv[0]).stem == "impasto" or (sys.argv[0] == "-m" and "impasto" in sys.orig_argv)):
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A worker of a server has the arguments of the server, which stops it.
    for _number in [] if "--multiprocessing-fork" in sys.orig_argv else stopping():
        signal.signal(_number, _end)
