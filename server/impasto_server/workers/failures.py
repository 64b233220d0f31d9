"""What becomes of an error in a worker: a failed job, or the end of the process."""

from __future__ import annotations

import logging

import torch

from impasto_server.domain.pictures import PictureLost
from impasto_server.workers.messages import JobFailed

logger = logging.getLogger(__name__)


class DeviceLostError(Exception):
    """Nothing more can be computed in this process. It must end, so that it is started again and its jobs go on."""


def job_failed(job_id: str, error: Exception) -> JobFailed:
    """Return the report on a job that an error ends, and log it."""
    lost = isinstance(error, PictureLost)
    memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
    reason = "DATA_LOST" if lost else "OUT_OF_MEMORY" if memory else "ENGINE_ERROR"
    # A picture is missing if its job was just deleted; otherwise the server reports it.
    logger.log(logging.INFO if lost else logging.ERROR, "job %s failed: %s", job_id, error, exc_info=None if lost else error)
    return JobFailed(job_id, reason, str(error).splitlines()[0] if str(error) else type(error).__name__)
