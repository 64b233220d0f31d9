"""Stands in for `impasto worker` in tests of launchers: joins, says who it is and that it lives, and stays until it is ended.

It has a child in its process group, as a real worker may have. It ends itself when the connection is lost.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--join", "--name", "--device", "--token-file"):
        parser.add_argument(name)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--stubborn", action="store_true", help="ignores SIGTERM")
    parser.add_argument("--status", type=int, help="exits at once")
    options = parser.parse_args()
    if options.status is not None:
        raise SystemExit(options.status)
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-c", f"import time; time.sleep(600)  # {options.join}"])
    host, _, port = options.join.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        raylet = int(os.environ.get("RAY_RAYLET_PID", "0"))
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        hello = {"name": options.name, "pid": os.getpid(), "child": child.pid, "raylet": raylet, "gpus": gpus}
        connection.sendall(json.dumps({**hello, "device": options.device}).encode() + b"\n")
        try:
            while True:
                connection.sendall(b"alive\n")
                time.sleep(0.1)
        except OSError:
            child.kill()


if __name__ == "__main__":
    main()
