"""The log: text for a console, or one JSON object per line. It never contains pictures or tokens."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from impasto_server.domain.job import Job

QUIET = ("PIL", "asyncio", "grpc", "urllib3")
"""Libraries whose debug messages are suppressed."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object for each event: time, level, logger, message, and the caller's ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        values: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        values |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


def about(job: Job) -> dict[str, str]:
    """Return the fields that each log event of a job has besides its message."""
    facts = {"job_id": job.job_id, "request_id": job.request_id, "owner": job.owner, "device": job.device}
    if job.stop_reason is not None:
        facts["stop_reason"] = job.stop_reason.value
    return {name: value for name, value in facts.items() if value}


def set_up(level: str, log_format: str) -> None:
    """Configure logging to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    console = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else console)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs the URLs of webhooks, which may contain secrets
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
