"""`make demo`: a real server, a real client, a photograph and a sample style; leaves demo.png and demo-sheet.png."""

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

ROOT = Path(__file__).parents[1]
CONTENT = Path(skimage.__file__).parent / "data" / "rocket.jpg"
STYLE = Path(__file__).parent / "embers.jpg"
SIZE_PX, STEPS = 384, 80


def start_server() -> tuple[subprocess.Popen[str], str]:
    """Start `impasto serve` on a free port; return it and its address once it takes jobs."""
    command = [sys.executable, "-c", "from impasto.cli import main; main()", "serve", "--listen", "127.0.0.1:0"]
    server = subprocess.Popen([*command, "--weights", "builtin", "--data-dir", ":memory:"], stderr=subprocess.PIPE, text=True)  # noqa: S603
    for line in server.stderr or ():
        if found := re.search(r"serving on (\S+)", line):
            return server, found.group(1)
        print(f"  server: {line.rstrip()}")
    raise SystemExit("the server did not start")


def paint(address: str) -> impasto.Result:
    """Paint through the client, telling every tenth step."""

    def tell(step: impasto.Step) -> None:
        if step.step == 1 or step.step % 10 == 0:
            print(
                f"  step {step.step:3d}/{step.steps}  loss {step.losses.total:.4f}  {step.remaining_s:.0f} s left", flush=True
            )

    with impasto.Client(address) as client:
        return client.stylize(CONTENT, STYLE, size_px=SIZE_PX, steps=STEPS, on_step=tell)


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
    print("starting the server with the built-in filters")
    server, address = start_server()
    try:
        print(f"painting {CONTENT.name} in the style of {STYLE.name}, {SIZE_PX} px, {STEPS} steps, at {address}")
        result = paint(address)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    losses = result.losses
    result.save(ROOT / "demo.png")
    sheet(result.image).save(ROOT / "demo-sheet.png")
    print(f"loss {losses.total:.4f} = content {losses.content:.4f} + style {losses.style:.4f}", end="")
    print(f" + variation {losses.total_variation:.4f}; {result.evaluations} evaluations, {result.weights} weights")
    print(f"optimized for {result.timings.optimize_s:.1f} s; {time.monotonic() - began:.1f} s in all")
    print(f"picture: {ROOT / 'demo.png'}\nsheet:   {ROOT / 'demo-sheet.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
