"""Take the page's screenshots with Debian's Chromium, from a real server that paints the samples. Run by `make docs-pictures`.

docs/pictures/page-painting.jpg is for the README; the others go to docs/build/, to be looked at.
"""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser.driver import PHONE, Page, browser  # noqa: E402
from tests.conftest import ServerProcess  # noqa: E402

BUILD, PICTURES = ROOT / "docs/build/page", ROOT / "docs/pictures"
SIZE, STEPS = 256, 60
WIDE = (1280, 860)


def take(page: Page, name: str, *, whole: bool = True) -> Path:
    """Write a screenshot of the page from its top."""
    page.driver.execute_script("scrollTo(0, 0)")
    time.sleep(0.6)
    target = BUILD / f"{name}.png"
    page.screenshot(target, whole=whole)
    print(target)
    return target


def paint(page: Page, *styles: str, photo: str = "valley") -> None:
    """Start to paint samples."""
    page.click(f"Use the sample {photo}")
    page.wait(lambda: page.all("#photo .pic img[src]"), "the photo")
    for count, style in enumerate(styles, 1):
        page.click(f"Use the sample {style}")
        page.wait(lambda count=count: len(page.all("#styles .pic img[src]")) == count, "the style")
    page.paint(SIZE, STEPS)


def desktop(url: str) -> None:
    """Take the states of the page on a large screen."""
    with browser(url, WIDE) as page:
        page.open()
        take(page, "empty", whole=False)
        for photo, style in (("fruit", "mosaic"), ("valley", "embers"), ("fruit", "etching")):
            page.driver.execute_script("localStorage.clear(); location.hash = ''")
            page.driver.refresh()
            paint(page, style, photo=photo)
            page.reaches("Finished", seconds=300)
        page.driver.execute_script("localStorage.clear(); location.hash = ''")
        page.driver.refresh()
        paint(page, "swirls")
        page.wait(lambda: int(([*page.text("#job .state span").split(), "0", "0"])[1]) > STEPS * 0.6, "most steps", 300)
        shot = take(page, "painting", whole=False)
        with Image.open(io.BytesIO(shot.read_bytes())) as image:
            image.convert("RGB").save(PICTURES / "page-painting.jpg", quality=88, optimize=True)
        page.reaches("Finished", seconds=300)
        page.wait(lambda: page.all("#stage .compare img.after"), "the picture")
        page.click("Before / after")
        take(page, "finished")
        page.scheme("dark")
        take(page, "finished-dark")
        page.click("Paint only a part")
        take(page, "brush-dark", whole=False)
        page.scheme("light")
        page.click("Cancel", "#brush")
        page.driver.execute_script("document.querySelector('#about-open').click()")
        take(page, "server", whole=False)
        page.driver.execute_script("document.querySelector('#about').close()")
        page.set("size_px", "99999")
        page.click("Paint", "#compose")
        page.wait(lambda: page.text("#problem"), "an error")
        take(page, "error")
        page.set("size_px", "128")
        page.set("steps", "20")
        page.driver.execute_script("document.querySelector('#variations').open = true")
        page.click("Paint the grid")
        page.wait(lambda: len(page.all("#stage .cells .card img[src]")) == 4, "the grid", 300)
        take(page, "grid", whole=False)
        page.driver.get(f"{url}docs")
        page.wait(lambda: page.all("article"), "the documentation")
        take(page, "docs", whole=False)


def phone(url: str) -> None:
    """Take the same on a phone."""
    with browser(url, PHONE, mobile=True) as page:
        page.open()
        take(page, "phone-empty", whole=False)
        paint(page, "swirls", "embers")
        page.reaches("Finished", seconds=300)
        page.wait(lambda: page.all("#stage .compare img.after"), "the picture")
        take(page, "phone")
        page.scheme("dark")
        take(page, "phone-dark")
        page.click("Where it goes")
        take(page, "phone-brush-dark", whole=False)


def main() -> None:
    """Take all screenshots."""
    BUILD.mkdir(parents=True, exist_ok=True)
    server = ServerProcess("--web", "127.0.0.1:0")
    try:
        until = time.monotonic() + 40
        while not (found := re.search(r"impasto page at (\S+)", "".join(server.log))) and time.monotonic() < until:
            time.sleep(0.1)
        assert found, "the page did not start"  # noqa: S101
        desktop(found[1])
        phone(found[1])
    finally:
        server.stop()


if __name__ == "__main__":
    main()
