"""Debian's Chromium, driven by its own chromedriver, and what tests do on the page."""

from __future__ import annotations

import base64
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
CHROMEDRIVER = shutil.which("chromedriver") or ""
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
DESKTOP, PHONE = (1280, 900), (390, 844)
DROP = """
const [target, files] = arguments, data = new DataTransfer();
for (const [name, type, text] of files) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  data.items.add(new File([bytes], name, {type}));
}
for (const name of ["dragenter", "dragover", "drop"])
  document.querySelector(target).dispatchEvent(new DragEvent(name, {bubbles: true, cancelable: true, dataTransfer: data}));
"""

NAMED = """return [...document.querySelectorAll(arguments[0])].flatMap(root => [...root.querySelectorAll("button, a, summary")])
    .filter(item => [item.innerText.trim(), item.getAttribute("aria-label")].includes(arguments[1]))"""


class Page:
    """The page in a browser of its own.

    Args:
        driver: The browser.
        url: The page's address.
        downloads: Folder that downloads go to.
    """

    def __init__(self, driver: Any, url: str, downloads: Path) -> None:
        self.driver, self.url, self.downloads = driver, url, downloads
        self._logged: list[str] = []

    def open(self, path: str = "") -> None:
        """Open the page, and wait until it knows the server."""
        for _ in range(5):
            self._logged.clear()
            self.driver.get(self.url + path)
            # Chromium drops what it loads when a network of the machine comes or goes, as those of containers do.
            if "ERR_NETWORK_CHANGED" not in self.console():
                break
        self.wait(lambda: self.text("#about-text") not in ("", "Server"), "the page knows the server")

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        """Return the texts of all elements that are shown."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent).map(e => e.innerText).join('\\n')"
        )
        return str(self.driver.execute_script(script, selector))

    def wait(self, ready: Callable[[], Any], what: str, seconds: float = 40) -> Any:
        """Wait until something is so; return what the function returned."""
        until = time.monotonic() + seconds
        while True:
            found = ready()
            if found:
                return found
            if time.monotonic() > until:
                raise AssertionError(
                    f"not within {seconds} s: {what}; the page says: {self.text('body')[:1500]}\n{self.console()}"
                )
            time.sleep(0.05)

    def click(self, name: str, within: str = "body") -> None:
        """Press the button with a text or label, as a user would: it must be visible."""

        def press() -> bool:
            try:
                for item in self.driver.execute_script(NAMED, within, name):
                    if item.is_displayed() and item.is_enabled():
                        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", item)
                        item.click()
                        return True
            except StaleElementReferenceException:  # the page has drawn it anew
                pass
            return False

        self.wait(press, f"a button {name!r}", 10)

    def drop(self, files: list[tuple[str, bytes]], target: str = "body") -> None:
        """Drop files."""
        sent = [
            (name, f"image/{Path(name).suffix[1:].replace('jpg', 'jpeg')}", base64.b64encode(data).decode())
            for name, data in files
        ]
        self.driver.execute_script(DROP, target, sent)

    def set(self, field: str, value: str) -> None:
        """Type a setting."""
        item = self.find(f"#set-{field}")
        self.driver.execute_script(
            "for (const e of document.querySelectorAll('details')) if (e.contains(arguments[0])) e.open = true", item
        )
        if item.tag_name == "select":
            self.choose(f"#set-{field}", value)
            return
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", item)
        item.clear()
        item.send_keys(value + "\t")

    def choose(self, selector: str, value: str) -> None:
        """Give a slider or a list a value."""
        script = """arguments[0].value = arguments[1];
            for (const name of ["input", "change"]) arguments[0].dispatchEvent(new Event(name, {bubbles: true}))"""
        self.driver.execute_script(script, self.find(selector), value)

    def state(self) -> str:
        """Return the state of the job that is shown."""
        return self.text("#job .state strong")

    def reaches(self, *states: str, seconds: float = 60) -> str:
        """Wait for a state of the job."""
        return str(self.wait(lambda: self.state() if self.state() in states else "", f"a job that is {states}", seconds))

    def add(self, photo: bytes, *styles: bytes) -> None:
        """Drop a photo and styles, and wait until they are shown."""
        self.drop([("photo.png", photo), *((f"style-{index}.png", style) for index, style in enumerate(styles))])
        self.wait(
            lambda: len(self.all("#styles .pic img[src]")) == len(styles) and self.all("#photo .pic img[src]"), "the pictures"
        )

    def paint(self, size: int = 64, steps: int = 4) -> None:
        """Set the size and the steps, and press Paint."""
        self.set("size_px", str(size))
        self.set("steps", str(steps))
        self.click("Paint", "#compose")

    def violations(self) -> list[str]:
        """Return the browser's complaints about the content security policy, and errors of scripts."""
        said = self.console().splitlines()
        return [line for line in said if "Content Security Policy" in line or "Uncaught" in line]

    def console(self) -> str:
        """Return all that the browser has logged; its own log is emptied by reading."""
        self._logged += [str(item["message"]) for item in self.driver.get_log("browser")]
        return "\n".join(self._logged)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        size = self.driver.execute_script(
            "return [innerWidth, arguments[0] ? document.documentElement.scrollHeight : innerHeight]", whole
        )
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))

    def scheme(self, name: str) -> None:
        """Let the system prefer light or dark."""
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]}
        )

    def resize(self, size: tuple[int, int], *, mobile: bool = False) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@contextmanager
def browser(url: str, size: tuple[int, int] = DESKTOP, *, mobile: bool = False) -> Iterator[Page]:
    """Run a browser with an empty profile."""
    with tempfile.TemporaryDirectory(prefix="impasto-browser-", ignore_cleanup_errors=True) as folder:
        downloads = Path(folder) / "downloads"
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (*_ARGUMENTS, f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
        try:
            page = Page(driver, url, downloads)
            page.resize(size, mobile=mobile)
            driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
            yield page
        finally:
            driver.quit()
