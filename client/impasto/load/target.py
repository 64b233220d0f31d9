"""A real server as a target: jobs are submitted, watched to their end and checked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import random
import uuid
from collections.abc import Callable

from PIL import Image

from impasto import errors
from impasto._async_client import AsyncClient, AsyncJob
from impasto.load.records import Record
from impasto.load.workload import Request
from impasto.results import Finished, Heartbeat, Snapshot, Step

SLOW_S = 0.2
CANCEL_TIMEOUT_S = 5.0
"""Timeout of cancelling an abandoned job on the server."""
LOSS_SLACK = 0.05
"""Allowed relative difference of the final losses of the same request, which another device may have painted."""


class ServiceTarget:
    """Performs requests on a server.

    Args:
        client: Client of the server.
        seed: Seed of the steps at which faults are injected.
        previews: Steps between previews; 0 for none.
    """

    def __init__(self, client: AsyncClient, seed: int = 0, previews: int = 5) -> None:
        self._client = client
        self._rng = random.Random(f"{seed}/target")  # noqa: S311 - nothing is secret here
        self._previews = previews
        self._pictures: dict[str, str] = {}
        self._losses: dict[str, float] = {}

    async def perform(self, request: Request, record: Record, now: Callable[[], float]) -> None:
        """See :class:`~impasto.load.runner.Target`."""
        try:
            if request.entry.call == "health":
                await self._client.health(30.0)
                record.moments["done"] = now()
                record.outcome = "ok"
            else:
                await self._job(request, record, now)
        except errors.JobCancelled:
            record.outcome = "cancelled" if record.chaos == "cancel" else "error"
            record.reason = "JOB_CANCELLED"
        except errors.ImpastoError as error:
            record.outcome, record.reason, record.message = "error", f"{type(error).__name__} {error.reason}", str(error)

    async def _job(self, request: Request, record: Record, now: Callable[[], float]) -> None:
        options = {"preview_every_steps": self._previews, **request.options}
        request_id = str(uuid.uuid4())
        submissions = [self._client.submit(request.content, request.style, request_id=request_id, **options)]
        if record.chaos == "duplicate":
            submissions.append(self._client.submit(request.content, request.style, request_id=request_id, **options))
        jobs = await asyncio.gather(*submissions)
        record.moments["acknowledged"] = now()
        record.job_id = jobs[0].job_id
        if len({job.job_id for job in jobs}) > 1:
            record.incorrect.append("one request id became two jobs")
        try:
            finished = await self._watch(jobs[0], request, record, now)
        except asyncio.CancelledError:
            await _cancel_abandoned(jobs[0])
            raise
        if finished is None:
            record.incorrect.append("the progress stream ended without a result")
            record.outcome, record.reason, record.message = "error", "NO_RESULT", record.incorrect[-1]
            return
        job = finished.job
        if job.state != "succeeded":
            raise errors.from_job(job.job_id, job.state, job.error_reason, job.error_message)
        record.moments["done"] = now()
        record.outcome, record.steps = "ok", job.step
        record.loss = job.losses.total if job.losses else None
        record.split = {"queue": job.timings.queue_s, "optimize": job.timings.optimize_s, "encode": job.timings.encode_s}
        self._check(request, record, finished)

    async def _watch(self, job: AsyncJob, request: Request, record: Record, now: Callable[[], float]) -> Finished | None:
        """Watch a job to its end, and inject the fault that its record names."""
        point = self._rng.randrange(1, max(2, int(request.options.get("steps", 20))))
        after, last_step, cancelled = 0, None, False
        breaks = record.chaos == "reattach"
        while True:
            broken = False
            async for event in job.progress(resume_after=after, previews=True, image=True):
                if isinstance(event, Snapshot | Heartbeat):
                    continue
                if event.sequence != after + 1:
                    record.incorrect.append(f"event {event.sequence} came after {after}")
                after = event.sequence
                if isinstance(event, Finished):
                    return event
                if isinstance(event, Step):
                    last_step = self._note_step(event, record, now(), last_step)
                    if record.chaos == "slow":
                        await asyncio.sleep(SLOW_S)
                    if record.chaos == "cancel" and event.step >= point and not cancelled:
                        cancelled = True
                        await job.cancel()
                    if breaks and event.step >= point:
                        breaks, broken = False, True
                        break
            if not broken:
                return None

    @staticmethod
    def _note_step(event: Step, record: Record, at: float, last: float | None) -> float:
        record.moments.setdefault("first_step", at)
        if event.preview is not None:
            record.moments.setdefault("first_preview", at)
        if last is not None:
            record.longest_gap = max(record.longest_gap, at - last)
        return at

    def _check(self, request: Request, record: Record, finished: Finished) -> None:
        """Record what is wrong with a picture: damaged, of another size, or different from that of the same request before."""
        data, job = finished.data or b"", finished.job
        record.received_bytes = len(data)
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                if image.size != (job.width_px, job.height_px):
                    record.incorrect.append(f"the picture has {image.size}, the job {job.width_px} x {job.height_px}")
        except (OSError, SyntaxError, ValueError) as error:
            record.incorrect.append(f"the picture does not decode: {error}")
            return
        digest = hashlib.sha256(data).hexdigest()
        if self._pictures.setdefault(request.key, digest) != digest:
            record.incorrect.append("the same request returned a different picture")
        if record.loss is not None:
            usual = self._losses.setdefault(request.key, record.loss)
            if abs(record.loss - usual) > LOSS_SLACK * max(abs(usual), 1e-12):
                record.incorrect.append(f"the same request returned a loss of {record.loss:.4g} and of {usual:.4g}")


async def _cancel_abandoned(job: AsyncJob) -> None:
    """Cancel an abandoned job: it would slow down whatever is measured next."""
    with contextlib.suppress(errors.ImpastoError, TimeoutError):
        async with asyncio.timeout(CANCEL_TIMEOUT_S):
            await job.cancel()
