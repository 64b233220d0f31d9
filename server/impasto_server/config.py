"""What an operator can set. Plain data, checked once at start."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

MIB = 1 << 20
IN_MEMORY = ":memory:"


class ConfigError(ValueError):
    """A setting that cannot be; the message names it."""


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one server process.

    Attributes:
        listen: Address to serve on; port 0 takes a free one.
        device: ``auto``, ``cpu``, ``cuda`` or a list such as ``cuda:0,cuda:1``.
        weights: ``auto``, ``builtin``, ``imagenet``, ``imagenet-v1``, ``random-SEED`` or a path; before it an architecture and
            a colon for another network than VGG16.
        max_queued_jobs: More waiting jobs are refused.
        max_running_jobs: Jobs that share a device at once; 0 for 1 on a CPU and 16 on a GPU.
        max_memory_mib: Memory that the jobs on a device may take together; 0 for 80 % of what is free when its worker starts.
        max_size_px: Largest canvas side.
        max_image_pixels: Largest picture that is decoded.
        max_message_bytes: Largest message in either direction.
        max_styles: Most styles of a job.
        heartbeat_s: Silence after which a watcher gets a heartbeat.
        grace_s: How long running jobs may take to end after SIGTERM.
        retention_s: How long an ended job and its picture are kept.
        max_ended_jobs: How many ended jobs are kept at most.
        data_dir: Where jobs are kept; ``:memory:`` for none, empty for the user's state folder.
        max_data_mib: Most that the pictures there may take together; new jobs are refused beyond it.
        checkpoint_interval_s: How often the state of a running job is written.
        cuda_graphs: Whether steps are recorded as CUDA graphs. Off: no GPU has confirmed it yet.
    """

    listen: str = "127.0.0.1:50051"
    device: str = "auto"
    weights: str = "auto"
    max_queued_jobs: int = 256
    max_running_jobs: int = 0
    max_memory_mib: int = 0
    max_size_px: int = 2048
    max_image_pixels: int = 64_000_000
    max_message_bytes: int = 64 * MIB
    max_styles: int = 8
    heartbeat_s: float = 5.0
    grace_s: float = 30.0
    retention_s: float = 3600.0
    max_ended_jobs: int = 500
    data_dir: str = ""
    max_data_mib: int = 4096
    checkpoint_interval_s: float = 5.0
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        host, separator, port = self.listen.rpartition(":")
        if not separator or not host or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"listen must be HOST:PORT, got {self.listen!r}")
        for item in fields(self):
            value = getattr(self, item.name)
            low = 0 if item.name in ("max_running_jobs", "max_memory_mib", "grace_s") else 1e-3
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not value >= low:
                raise ConfigError(f"{item.name} must be {'at least 0' if low == 0 else 'above 0'}, got {value}")
        if not 16 <= self.max_size_px <= 8192:
            raise ConfigError(f"max_size_px must be from 16 to 8192, got {self.max_size_px}")

    @property
    def data_folder(self) -> Path | None:
        """Where jobs are kept, by the XDG base directory rules if nothing else is said; None for memory."""
        if self.data_dir == IN_MEMORY:
            return None
        if self.data_dir:
            return Path(self.data_dir).expanduser()
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "impasto"
