"""Paint one picture, and one more in a mix of two styles.

python one_picture.py PHOTO STYLE [SECOND_STYLE]
"""

import sys

import impasto


def main(photo: str, style: str, second: str | None = None) -> None:
    """Paint with the given files."""
    with impasto.Client() as client:  # $IMPASTO_SERVER, or localhost:50051
        result = client.stylize(photo, style, size_px=256, steps=50, progress=True)
        result.save("painted.png")
        print(f"painted.png: loss {result.losses.total:.4f} after {result.timings.optimize_s:.1f} s")
        if second is None:
            return
        job = client.submit(photo, [(style, 0.7), (second, 0.3)], size_px=256, steps=50)
        for event in job.progress():
            if isinstance(event, impasto.Step) and event.step % 10 == 0:
                print(f"step {event.step} of {event.steps}: loss {event.losses.total:.4f}")
        job.fetch().save("mixed.jpg")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except impasto.ImpastoError as error:
        raise SystemExit(f"{error} ({error.reason})") from None
