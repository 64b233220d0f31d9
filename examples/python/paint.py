"""Paint a picture and save it: submit a job, watch it, and fetch the result.

    python paint.py HOST:PORT PHOTO STYLE OUT.png

The client reads IMPASTO_TOKEN and IMPASTO_TLS_CA, and continues after lost connections by itself. SIZE (pixels) and STEPS are
optional.
"""

from __future__ import annotations

import os
import sys

import impasto


def paint(address: str, photo: str, style: str, out: str) -> None:
    """Paint, and print every step."""
    size_px, steps = int(os.environ.get("SIZE", "512")), int(os.environ.get("STEPS", "60"))
    with impasto.Client(address) as client:
        job = client.submit(photo, style, size_px=size_px, steps=steps)
        for event in job.progress():
            if isinstance(event, impasto.Step):
                print(f"step {event.step} of {event.steps}, loss {event.losses.total:.4f}")
        job.result().save(out)


def main() -> int:
    """Return the exit code."""
    if len(sys.argv) != 5:
        print("usage: paint.py HOST:PORT PHOTO STYLE OUT.png", file=sys.stderr)
        return 2
    try:
        paint(*sys.argv[1:])
    except impasto.ImpastoError as error:
        print(" | ".join([str(error), error.reason, *(violation.field for violation in error.violations)]), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
