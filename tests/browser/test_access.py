"""axe-core finds nothing serious, in any state of the page, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import AXE, page_of
from tests.browser.driver import PHONE, Page, browser
from tests.conftest import ServerProcess

RUN = """
const done = arguments[0];
axe.run(document, {resultTypes: ["violations"]}).then(found => done(found.violations), error => done([String(error)]));
"""


def problems(page: Page) -> list[str]:
    """Return what axe finds that is serious or critical."""
    page.driver.execute_script(AXE.read_text())
    found: list[Any] = page.driver.execute_async_script(RUN)
    return [
        f"{item['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for item in found
        if item["impact"] in ("serious", "critical")
        for node in item["nodes"]
    ]


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: make test-web installs it")
@pytest.mark.parametrize(("scheme", "phone"), [("light", False), ("dark", False), ("light", True)])
def test_no_state_of_the_page_has_a_serious_finding(
    painter: ServerProcess, png: Callable[..., bytes], scheme: str, phone: bool
) -> None:
    """Empty, painting, paused, finished, compared, with an error, with each dialog; and the documentation."""
    found: dict[str, list[str]] = {}
    with browser(page_of(painter), PHONE if phone else (1280, 900), mobile=phone) as page:
        page.scheme(scheme)
        page.open()
        found["empty"] = problems(page)
        page.add(png(), png(seed=1), png(seed=2))
        page.driver.execute_script("for (const e of document.querySelectorAll('details')) e.open = true")
        page.paint(64, 3000)
        page.wait(lambda: page.all("#stage .preview img"), "a preview", 60)
        found["painting"] = problems(page)
        page.click("Pause", "#job")
        page.reaches("Paused")
        found["paused"] = problems(page)
        page.click("Cancel", "#job")
        page.reaches("Cancelled")
        page.paint(48, 2)
        page.reaches("Finished")
        page.wait(lambda: page.all("#stage .compare img.after"), "the picture")
        page.click("Before / after")
        found["finished"] = problems(page)
        page.set("size_px", "99999")
        page.click("Paint", "#compose")
        page.wait(lambda: page.text("#problem"), "an error")
        found["error"] = problems(page)
        page.click("Paint only a part")
        found["brush"] = problems(page)
        page.click("Cancel", "#brush")
        page.driver.execute_script("document.querySelector('#about-open').click()")
        page.wait(lambda: page.text("#about-body"), "the server's description")
        found["server"] = problems(page)
        page.driver.get(f"{page.url}docs")
        page.wait(lambda: page.all("article"), "the documentation")
        found["docs"] = problems(page)
    assert {state: what for state, what in found.items() if what} == {}
