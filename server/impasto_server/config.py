"""What an operator can set. Plain data, checked once at start."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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


def _setting(default: Any, text: str, *, zero: bool = False) -> Any:
    """Return a setting's field.

    Args:
        default: Its default.
        text: Its help, in ``impasto serve --help`` and here.
        zero: Whether a number may be 0.
    """
    return field(default=default, metadata={"help": text, "zero": zero})


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one server process. Each is an option of ``impasto serve``, a variable and a key of the file of settings."""

    listen: str = _setting("127.0.0.1:50051", "Address to serve on, HOST:PORT; port 0 takes a free one.")
    metrics: str = _setting("", "Address to serve Prometheus metrics on (HTTP, /metrics), HOST:PORT; nowhere by default.")
    tls_cert: str = _setting("", "Certificate chain (PEM); with --tls-key the server speaks TLS.")
    tls_key: str = _setting("", "Its private key (PEM).")
    tls_client_ca: str = _setting("", "CA (PEM) that clients' certificates must be signed by; their common name owns the jobs.")
    tokens: str = _setting("", "File with the tokens of those who may call; see 'impasto token'.")
    log_format: str = _setting("console", "console, or json with a line for each event.")
    log_level: str = _setting("info", "How much to log, to stderr: debug, info, warning or error.")
    otlp_endpoint: str = _setting("", "Where traces go, by OTLP over gRPC; nowhere by default. Needs impasto[otel].")
    device: str = _setting("auto", "auto, cpu, cuda, or a list such as cuda:0,cuda:1. One worker each.")
    weights: str = _setting(
        "auto",
        "auto, builtin, random-SEED, a name in the cache, or a file; for another network than VGG16, ARCHITECTURE:NAME.",
    )
    max_queued_jobs: int = _setting(256, "More waiting jobs are refused.")
    max_queued_work_s: float = _setting(
        0.0, "More waiting work, in estimated seconds of steps, is refused; 0 for no limit.", zero=True
    )
    max_client_jobs: int = _setting(0, "Jobs of one client that have not ended; 0 for no limit.", zero=True)
    max_client_jobs_per_minute: int = _setting(0, "Jobs of one client accepted within a minute; 0 for no limit.", zero=True)
    max_client_pixels: int = _setting(0, "Canvas pixels of one client's jobs that have not ended; 0 for no limit.", zero=True)
    max_running_jobs: int = _setting(0, "Jobs that share a device at once; 0 for 1 on a CPU and 16 on a GPU.", zero=True)
    max_memory_mib: int = _setting(
        0, "Memory that the jobs on a device may take together; 0 for 80 % of what is free.", zero=True
    )
    max_size_px: int = _setting(2048, "Largest canvas side.")
    max_image_pixels: int = _setting(64_000_000, "Largest picture that is decoded.")
    max_message_bytes: int = _setting(64 * MIB, "Largest message in either direction.")
    max_styles: int = _setting(8, "Most styles of a job.")
    heartbeat_s: float = _setting(5.0, "Silence after which a watcher gets a heartbeat.")
    grace_s: float = _setting(30.0, "How long running jobs may take to end after SIGTERM.", zero=True)
    retention_s: float = _setting(3600.0, "How long an ended job and its picture are kept.")
    max_ended_jobs: int = _setting(500, "How many ended jobs are kept at most.")
    data_dir: str = _setting(
        "", "Folder of jobs and pictures; impasto in $XDG_STATE_HOME or ~/.local/state by default, :memory: for none."
    )
    max_data_mib: int = _setting(4096, "Most that the pictures there may take; new jobs are refused beyond it.")
    checkpoint_interval_s: float = _setting(5.0, "How often the state of a running job is written.")
    cuda_graphs: bool = _setting(False, "Record steps as CUDA graphs; not confirmed on a GPU yet.")

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
            low = 0 if item.metadata["zero"] else 1e-3
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
