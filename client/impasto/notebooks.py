"""How jobs are shown in notebooks."""

from __future__ import annotations

from html import escape

from impasto.results import JobInfo


def job_html(job_id: str, job: JobInfo | None, trouble: str = "") -> str:
    """Return a job as HTML: its state, a bar of its steps, and its losses.

    Args:
        job_id: The job.
        job: What is known about it; None for nothing.
        trouble: Why nothing is known.
    """
    if job is None:
        return f"<div>impasto job <code>{escape(job_id)}</code> {escape(trouble)}</div>"
    shown = [f"{job.step} of {job.steps} steps", f"{job.width_px} x {job.height_px}"]
    if job.state == "queued":
        shown.append(f"{job.queue_position} ahead")
    if job.losses:
        shown.append(f"loss {job.losses.total:.4g}")
    if job.error_message:
        shown.append(job.error_message)
    bar = f'<progress max="{max(1, job.steps)}" value="{job.step}"></progress>'
    return f"<div>impasto job <code>{escape(job_id)}</code> {escape(job.state)} {bar} {escape(', '.join(shown))}</div>"
