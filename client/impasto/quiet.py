"""Keeps gRPC's core silent under the command line: it writes lines of its own on failed handshakes and the like to stderr.

What matters of them is told in our errors. The core looks at this variable when it is imported, so this module comes before it.
Programs that use the client are left alone.
"""

import os
import sys
from pathlib import Path

if sys.argv and Path(sys.argv[0]).stem == "impasto":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
