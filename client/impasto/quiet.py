"""Disables gRPC's own log on stderr (failed handshakes and the like) for the command line.

The client's errors contain what matters. gRPC reads this variable when it is imported, so this module must be imported first.
Other programs that use the client are not affected.
"""

import os
import sys
from pathlib import Path

if sys.argv and (Path(sys.argv[0]).stem == "impasto" or (sys.argv[0] == "-m" and "impasto" in sys.orig_argv)):
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
