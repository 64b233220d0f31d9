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

import platformdirs

MIB = 1 << 20
IN_MEMORY = ":memory:"
NO_DEVICE = "none"
LOG_LEVELS = ("debug", "info", "warning", "error")
_OTHER_VARIABLES = frozenset(
    f"IMPASTO_{name}"
    for name in [
        "CONFIG",
        "CACHE",
        "SERVER",
        "TOKEN",
        "TLS",
        "TLS_CA",
        "TLS_CERT",
        "TLS_KEY",
        "FAILPOINT",
        "PROFILE",
        "CLIENT_CONFIG",
    ]
)
"""Variables that are not settings of the server: the settings file, the filters' cache, and the client's own."""
_KUBERNETES_VARIABLES = re.compile(r"IMPASTO_(\w+_)?(PORT|SERVICE)(_\w+)?")
"""Variables that Kubernetes sets for a service called impasto."""


STOP_ALLOWANCE_S = 30
"""Time beyond the grace time that an orchestrator must allow for a stop: for states, last answers, traces and the disk."""


class ConfigError(ValueError):
    """An invalid setting; the message names it."""


_MAX_NUMBER = 2**31 - 1
"""Largest value of any number: gRPC's own limits end here, and no sensible value is larger."""


def _setting(default: Any, text: str, *, zero: bool = False) -> Any:
    """Return a setting's field.

    Args:
        default: Its default.
        text: Its help text.
        zero: Whether a number may be 0.
    """
    return field(default=default, metadata={"help": text, "zero": zero})


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one server process: each is an option of ``impasto serve``, a variable and a key of the settings file."""

    listen: str = _setting("127.0.0.1:50051", "Address to serve on, HOST:PORT; port 0 picks a free one.")
    metrics: str = _setting("", "Address for Prometheus metrics (HTTP, /metrics), HOST:PORT; off by default.")
    web: str = _setting("", "Address for the page and the HTTP API, HOST:PORT; off by default. Needs the extra web.")
    tls_cert: str = _setting("", "Certificate chain (PEM); with --tls-key the server uses TLS.")
    tls_key: str = _setting("", "Private key of the certificate (PEM).")
    tls_client_ca: str = _setting("", "CA (PEM) that must have signed clients' certificates; their common name owns the jobs.")
    tokens: str = _setting("", "File with the tokens of allowed callers; see 'impasto token'.")
    log_format: str = _setting("console", "console, or json: one object per line.")
    log_level: str = _setting("info", "Log level, to stderr: debug, info, warning or error.")
    otlp_endpoint: str = _setting("", "Endpoint for traces, OTLP over gRPC; off by default. Needs the extra otel.")
    device: str = _setting(
        "auto",
        "auto, cpu, cuda, mps (untested), or a list such as cuda:0,cuda:1: one worker each. none: workers only join.",
    )
    worker_listen: str = _setting(
        "", "Address for workers on other machines (impasto worker --join), HOST:PORT; off by default."
    )
    worker_tokens: str = _setting("", "File with the tokens of allowed workers; see 'impasto token'.")
    cluster: str = _setting("", "Start workers by themselves: HOST:PORT of a Ray cluster, or local for this machine.")
    workers: str = _setting("auto", "Number of workers that the cluster starts: MIN..MAX, a number, or auto for no limits.")
    worker_device: str = _setting(
        "auto",
        "Device of each of them: cuda, or cpu where the hosts have no GPU. auto: cuda on Ray; with local, what there is.",
    )
    worker_address: str = _setting("", "worker_listen as the hosts see it, HOST:PORT; worker_listen itself by default.")
    worker_token_file: str = _setting("", "File with the workers' token, on each host.")
    weights: str = _setting(
        "auto",
        "auto, builtin, random-SEED, a name in the cache, or a file; for a network other than VGG16, ARCHITECTURE:NAME.",
    )
    max_queued_jobs: int = _setting(256, "Maximum number of waiting jobs; more are rejected.")
    max_queued_work_s: float = _setting(
        0.0, "Maximum waiting work, in estimated seconds of steps; more is rejected. 0 for no limit.", zero=True
    )
    max_client_jobs: int = _setting(0, "Maximum number of unfinished jobs of one client; 0 for no limit.", zero=True)
    max_client_jobs_per_minute: int = _setting(
        0, "Maximum number of jobs of one client accepted per minute; 0 for no limit.", zero=True
    )
    max_client_pixels: int = _setting(0, "Maximum canvas pixels of one client's unfinished jobs; 0 for no limit.", zero=True)
    max_running_jobs: int = _setting(
        0, "Maximum number of running jobs per device; 0 for 1 on a CPU and 16 on a GPU.", zero=True
    )
    max_memory_mib: int = _setting(
        0, "Memory that the jobs on a device may use together; 0 for 80 % of the free memory.", zero=True
    )
    max_size_px: int = _setting(2048, "Largest canvas side, in pixels.")
    max_image_pixels: int = _setting(64_000_000, "Largest picture that is decoded, in pixels.")
    max_message_bytes: int = _setting(64 * MIB, "Largest message in either direction, in bytes.")
    max_styles: int = _setting(8, "Maximum number of styles of a job.")
    heartbeat_s: float = _setting(5.0, "Seconds without an event after which a watcher gets a heartbeat.")
    grace_s: float = _setting(
        30.0,
        f"Seconds that running jobs may take to finish after SIGTERM; the orchestrator must allow {STOP_ALLOWANCE_S} s more.",
        zero=True,
    )
    retention_s: float = _setting(3600.0, "Seconds that an ended job and its picture are kept.")
    max_ended_jobs: int = _setting(500, "Maximum number of ended jobs that are kept.")
    data_dir: str = _setting(
        "", "Folder of jobs and pictures; impasto in $XDG_STATE_HOME or ~/.local/state by default; :memory: keeps none."
    )
    max_data_mib: int = _setting(4096, "Maximum size of the stored pictures, in MiB; new jobs are rejected beyond it.")
    checkpoint_interval_s: float = _setting(5.0, "Seconds between checkpoints of a running job.")
    webhook_hosts: str = _setting(
        "",
        "Hosts that jobs may name as webhooks, comma-separated: HOST, HOST:PORT or *.DOMAIN; off by default.",
    )
    webhook_secret: str = _setting("", "File with the secrets that sign webhooks (whsec_...), one on a line.")
    webhook_ca: str = _setting("", "CA certificates (PEM) that verify webhooks' receivers; the system's by default.")
    webhook_retry_s: float = _setting(5.0, "Seconds before a webhook is tried again; four times as many after each failure.")
    webhook_give_up_s: float = _setting(259200.0, "Seconds after which a webhook is given up; three days by default.")
    cuda_graphs: bool = _setting(False, "Record steps as CUDA graphs; not confirmed on a GPU yet.")

    def __post_init__(self) -> None:
        _check_address("listen", self.listen)
        if self.metrics:
            _check_address("metrics", self.metrics)
        self._check_workers()
        if self.web:
            _check_address("web", self.web)
            if self.web in (self.listen, self.metrics, self.worker_listen) and not self.web.endswith(":0"):
                raise ConfigError(f"web {self.web} is the address of another port of this server; choose another")
            if self.tls_client_ca:
                raise ConfigError(
                    "web does not go with tls_client_ca: browsers' certificates are not passed on; see 'impasto web'"
                )
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("tls_cert and tls_key must be set together")
        if self.tls_client_ca and not self.tls_cert:
            raise ConfigError("tls_client_ca needs tls_cert and tls_key")
        if self.webhook_hosts:
            _check_hosts("webhook_hosts", self.webhook_hosts)
            if not self.webhook_secret:
                raise ConfigError("webhook_hosts needs webhook_secret, a file with the secrets that sign webhooks")
        if self.log_format not in ("console", "json"):
            raise ConfigError(f"log_format must be console or json, got {self.log_format!r}")
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log_level must be one of {', '.join(LOG_LEVELS)}, got {self.log_level!r}")
        self._check_numbers()

    def _check_workers(self) -> None:
        if self.worker_listen:
            _check_address("worker_listen", self.worker_listen)
            if not self.worker_tokens and not is_local(self.worker_listen):
                raise ConfigError(f"worker_listen {self.worker_listen} can be reached by others, so worker_tokens must be set")
        elif self.worker_tokens or self.cluster or self.device == NO_DEVICE:
            needs = "worker_tokens" if self.worker_tokens else "cluster" if self.cluster else f"device {NO_DEVICE}"
            raise ConfigError(f"{needs} needs worker_listen")
        if self.worker_address:
            _check_address("worker_address", self.worker_address)
        if self.worker_device not in ("auto", "cuda", "cpu"):
            raise ConfigError(f"worker_device must be auto, cuda or cpu, got {self.worker_device!r}")
        if self.cluster and self.worker_tokens and not self.worker_token_file:
            raise ConfigError(
                "cluster with worker_tokens needs worker_token_file: the workers that it starts must have a token"
            )
        if self.workers != "auto" and not self.cluster:
            raise ConfigError(f"workers {self.workers} needs cluster, which starts them")

    def _check_numbers(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            low = 0 if item.metadata["zero"] else 1e-3
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not low <= value <= _MAX_NUMBER:
                text = f"{'at least 0' if low == 0 else 'above 0'} and at most {_MAX_NUMBER}"
                raise ConfigError(f"{item.name} must be {text}, got {value}")
            if isinstance(value, str) and not value.isprintable():
                raise ConfigError(f"{item.name} has unprintable characters: {value!r}")
        if not 16 <= self.max_size_px <= 8192:
            raise ConfigError(f"max_size_px must be from 16 to 8192, got {self.max_size_px}")

    @property
    def data_folder(self) -> Path | None:
        """Folder of the jobs, the system's usual one (platformdirs) unless data_dir is set; None for memory."""
        if self.data_dir == IN_MEMORY:
            return None
        try:
            if self.data_dir:
                return Path(self.data_dir).expanduser()
            if not os.environ.get("XDG_STATE_HOME"):
                Path.home()  # platformdirs does not say that there is none
            return platformdirs.user_state_path("impasto", appauthor=False)
        except RuntimeError:  # containers may run as a user without a home folder
            text = f"data_dir: no home folder was found for {self.data_dir or 'the default'}"
            raise ConfigError(f"{text}; set --data-dir to a folder, or to {IN_MEMORY}") from None


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address."""
    return address.startswith(("127.", "localhost:", "[::1]:", "unix:"))


def _check_address(name: str, address: str) -> None:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{name} must be HOST:PORT, got {address!r}")


_HOST = re.compile(r"((\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])(:([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)


def _check_hosts(name: str, hosts: str) -> None:
    """Refuse what no webhook's URL can match (webhooks/addresses.py)."""
    entries = [entry.strip() for entry in hosts.split(",") if entry.strip()]
    for entry in entries or [hosts]:
        if not _is_host(entry):
            text = f"{name} must be HOST, HOST:PORT or *.DOMAIN, comma-separated, without https:// or a path; got {entry!r}"
            without = (entry.partition("://")[2] or entry).partition("/")[0].rpartition("@")[2]
            raise ConfigError(text + (f"; did you mean {without}?" if _is_host(without) else ""))


def _is_host(entry: str) -> bool:
    found = _HOST.fullmatch(entry)
    return found is not None and (found[5] is None or 0 < int(found[5]) < 1 << 16)


def read_file(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, with names and types checked.

    Raises:
        ConfigError: If it cannot be read, has an unknown key, or has a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))  # Windows editors may write a byte order mark
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
            hint = f"; did you mean {close[0]}?" if close else f"; the settings are {', '.join(kinds)}"
            raise ConfigError(f"{path}: unknown setting {name!r}{hint}")
        kind = kinds[name]
        fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits and not (kind is float and isinstance(value, int) and not isinstance(value, bool)):
            raise ConfigError(f"{path}: {name} must be {_KINDS[kind]}, got {value!r}")
    return values


_KINDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def strange_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that looks like a setting but is not one."""
    prefix, found = "IMPASTO_", []
    known = {prefix + item.name.upper() for item in fields(ServerConfig)} | _OTHER_VARIABLES
    for name in sorted(environment):
        if name.startswith(prefix) and name not in known and not _KUBERNETES_VARIABLES.fullmatch(name):
            close = difflib.get_close_matches(name.removeprefix(prefix), (each.removeprefix(prefix) for each in known), 1)
            found.append(f"{name} is not a setting" + (f"; did you mean {prefix}{close[0]}?" if close else ""))
    return found


def to_toml(config: ServerConfig) -> str:
    """Return the settings as a TOML file that :func:`read_file` reads."""
    lines = []
    for item in fields(config):
        value = getattr(config, item.name)
        shown = json.dumps(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
        lines.append(f"{item.name} = {shown}")
    return "\n".join(lines) + "\n"
