"""Stands in for the process with Ray's driver: writes what it is told into its folder, and says what a file there contains."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

from impasto_server.cluster.ray_messages import Connected, End, Ended, Place, Placed, Refused, Settings, decode, encode


def main(folder: Path, descriptor: int) -> None:
    connection = socket.socket(fileno=descriptor)
    refusal = folder / "refuse"
    lines = connection.makefile("rb")
    with (folder / "told").open("ab", buffering=0) as told:
        for line in lines:
            told.write(line)
            message = decode(line)
            if isinstance(message, Settings):
                if refusal.exists():
                    connection.sendall(encode(Refused("the cluster is closed", permanent=refusal.read_text() == "permanent")))
                    return
                connection.sendall(encode(Connected("0.0")))
                threading.Thread(target=say, args=(folder / "say", connection), daemon=True).start()
            if isinstance(message, Place):
                connection.sendall(encode(Placed(message.key)))
            if isinstance(message, End) and not (folder / "never ends").exists():
                connection.sendall(encode(Ended(message.key)))
    os._exit(0)


def say(path: Path, connection: socket.socket) -> None:
    while True:
        if path.exists():
            connection.sendall(path.read_bytes())
            path.unlink()
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
