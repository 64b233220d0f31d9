"""The pictures in a worker's reports: previews, and finished canvases."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from impasto_engine import painting
from impasto_server.domain.job import JobWarning, OutputOptions, StopReason
from impasto_server.pictures import images
from impasto_server.workers import tensors
from impasto_server.workers.messages import JobPainted

PREVIEW_QUALITY = 85
HARDLY_PAINTED = 4.0
"""A warning is given if the root mean square of a picture's change, in 8-bit levels, is below; usual are 20 to 70."""
FEW_STEPS = 30


def preview(canvas: Tensor, job: painting.Job, output: OutputOptions) -> bytes:
    """Return a canvas, (3, height, width), as a JPEG of at most the size that the job asks for."""
    picture = painting.finished(canvas, job)
    scale = min(1.0, output.preview_size_px / max(picture.shape[1:]))
    if scale < 1:
        size = [max(1, round(side * scale)) for side in picture.shape[1:]]
        picture = F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0]
    return images.encode(tensors.raster(picture), "jpeg", PREVIEW_QUALITY)


def painted(job_id: str, canvas: Tensor, levels: Sequence[painting.Level], steps: int, reason: StopReason) -> JobPainted:
    """Return the report on a job's last canvas.

    Args:
        job_id: The job.
        canvas: The canvas, (3, height, width), at the first of the levels.
        levels: The job's current level and those after it: the picture has the size of the last one.
        steps: Number of steps that the job asks for.
        reason: Why it ends.
    """
    for before, after in itertools.pairwise(levels):
        canvas = painting.next_canvas(canvas, before.job, after.job, canvas.device)[0]
    job = levels[-1].job
    picture = painting.finished(canvas, job)
    return JobPainted(job_id, reason, tensors.raster(picture), _hardly_painted(painting.change(picture, job), steps))


def _hardly_painted(change: float, steps: int) -> tuple[JobWarning, ...]:
    """Warn about a picture that is nearly what it started from, which no loss and no stop reason shows."""
    if change >= HARDLY_PAINTED:
        return ()
    more = ", or use more steps" if steps < FEW_STEPS else ""
    text = f"the canvas changed by only {change:.1f} of 255 levels; raise the style weight or lower the content weight{more}"
    return (JobWarning("HARDLY_PAINTED", text),)
