"""What an operator can set. Plain data, checked once at start."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

MIB = 1 << 20
IN_MEMORY = ":memory:"
LOG_LEVELS = ("debug", "info", "warning", "error")
_OF_OTHERS = frozenset(
    f"IMPASTO_{name}" for name in ["CONFIG", "CACHE", "SERVER", "TOKEN", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "FAILPOINT"]
)
"""Variables that are none of the server's settings: the file of settings, the filters' cache, the client's own."""
_OF_KUBERNETES = re.compile(r"IMPASTO_(\w+_)?(PORT|SERVICE)(_\w+)?")
"""What Kubernetes sets by itself where a service is called impasto."""


class ConfigError(ValueError):
    """A setting that cannot be; the message names it."""


_MOST = 2**31 - 1
"""Of any number: gRPC's own limits end here, and nothing sensible is larger."""
_MAY_BE_ZERO = frozenset(
    {
        "max_running_jobs",
        "max_memory_mib",
        "grace_s",
        "max_queued_work_s",
        "max_client_jobs",
        "max_client_jobs_per_minute",
        "max_client_pixels",
    }
)


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one server process.

    Attributes:
        listen: Address to serve on; port 0 takes a free one.
        metrics: Address to serve metrics on, HTTP at /metrics; empty for nowhere.
        tls_cert: Certificate chain in PEM; with ``tls_key`` the server speaks TLS.
        tls_key: Its private key in PEM.
        tls_client_ca: Certificates in PEM that clients' certificates must be signed by; the common name owns the jobs.
        tokens: File with the tokens of those who may call; see :mod:`impasto_server.auth.tokens`.
        log_format: ``console``, or ``json`` with a line for each event.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        otlp_endpoint: Where traces go, by OTLP over gRPC; empty for nowhere. Needs ``impasto[otel]``.
        device: ``auto``, ``cpu``, ``cuda`` or a list such as ``cuda:0,cuda:1``.
        weights: ``auto``, ``builtin``, ``imagenet``, ``imagenet-v1``, ``random-SEED`` or a path; before it an architecture and
            a colon for another network than VGG16.
        max_queued_jobs: More waiting jobs are refused.
        max_queued_work_s: More waiting work, by the estimated time of its steps, is refused; 0 for no limit.
        max_client_jobs: Jobs of one client that have not ended; 0 for no limit.
        max_client_jobs_per_minute: Jobs of one client accepted within a minute; 0 for no limit.
        max_client_pixels: Canvas pixels of one client's jobs that have not ended; 0 for no limit.
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
    metrics: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tokens: str = ""
    log_format: str = "console"
    log_level: str = "info"
    otlp_endpoint: str = ""
    device: str = "auto"
    weights: str = "auto"
    max_queued_jobs: int = 256
    max_queued_work_s: float = 0.0
    max_client_jobs: int = 0
    max_client_jobs_per_minute: int = 0
    max_client_pixels: int = 0
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
        _check_address("listen", self.listen)
        if self.metrics:
            _check_address("metrics", self.metrics)
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("tls_cert and tls_key go together")
        if self.tls_client_ca and not self.tls_cert:
            raise ConfigError("tls_client_ca needs tls_cert and tls_key")
        if self.log_format not in ("console", "json"):
            raise ConfigError(f"log_format must be console or json, got {self.log_format!r}")
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log_level must be one of {', '.join(LOG_LEVELS)}, got {self.log_level!r}")
        for item in fields(self):
            value = getattr(self, item.name)
            low = 0 if item.name in _MAY_BE_ZERO else 1e-3
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not low <= value <= _MOST:
                text = f"{'at least 0' if low == 0 else 'above 0'} and at most {_MOST}"
                raise ConfigError(f"{item.name} must be {text}, got {value}")
            if isinstance(value, str) and not value.isprintable():
                raise ConfigError(f"{item.name} has characters that cannot be printed: {value!r}")
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


def _check_address(name: str, address: str) -> None:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{name} must be HOST:PORT, got {address!r}")


def read_file(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, checked for their names and kinds.

    Raises:
        ConfigError: If it cannot be read, or has a key that is no setting, or a value of another kind.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))  # editors on Windows begin a file with a mark
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    kinds = {item.name: type(item.default) for item in fields(ServerConfig)}
    for name, value in values.items():
        if name not in kinds:
            close = difflib.get_close_matches(name, kinds, 1)
            hint = f"; do you mean {close[0]}?" if close else f"; there are {', '.join(kinds)}"
            raise ConfigError(f"{path}: there is no setting {name!r}{hint}")
        kind = kinds[name]
        fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits and not (kind is float and isinstance(value, int) and not isinstance(value, bool)):
            raise ConfigError(f"{path}: {name} must be {_KINDS[kind]}, got {value!r}")
    return values


_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def strange_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a text for each variable that looks like a setting and is none."""
    prefix, found = "IMPASTO_", []
    known = {prefix + item.name.upper() for item in fields(ServerConfig)} | _OF_OTHERS
    for name in sorted(environment):
        if name.startswith(prefix) and name not in known and not _OF_KUBERNETES.fullmatch(name):
            close = difflib.get_close_matches(name.removeprefix(prefix), (each.removeprefix(prefix) for each in known), 1)
            found.append(f"{name} is no setting" + (f"; do you mean {prefix}{close[0]}?" if close else ""))
    return found


def to_toml(config: ServerConfig) -> str:
    """Return the settings as a TOML file that :func:`read_file` takes."""
    lines = []
    for item in fields(config):
        value = getattr(config, item.name)
        shown = json.dumps(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
        lines.append(f"{item.name} = {shown}")
    return "\n".join(lines) + "\n"
