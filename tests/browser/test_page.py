"""What people do on the page, in a real browser, with a real server."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

import impasto
from impasto_server.auth.tokens import new_token
from tests.browser.conftest import WebProcess, free_port, page_of
from tests.browser.driver import PHONE, Page, browser
from tests.conftest import ServerProcess, encoded

Png = Callable[..., bytes]
NO_PICTURE = "is not a picture; only PNG, JPEG and WebP pictures can be used."
LATE_ANSWERS = """
const plain = window.fetch, wrong = (options) => new Headers(options?.headers).get("Authorization") === "Bearer wrong";
window.late = 0;
window.fetch = async (path, options) => {
  const answer = await plain(path, options);
  if (!String(path).startsWith("/v1/jobs") || !wrong(options)) return answer;
  while (sessionStorage.getItem("impasto.token") === "wrong") await new Promise((done) => setTimeout(done, 20));
  setTimeout(() => window.late++, 200);
  return answer;
};
"""
"""A list of jobs that was asked for with the token "wrong" comes once another one is known."""
HELD_LISTS = """
const plain = window.fetch, held = new Promise((done) => { window.release = done; });
window.fetch = async (path, options) => {
  const answer = await plain(path, options);
  if (String(path).startsWith("/v1/jobs?")) { window.held = true; await held; }
  return answer;
};
"""
"""Lists of jobs come once the test releases them."""
SMALL_LISTS = """
const plain = window.fetch;
window.fetch = (path, options) => plain(String(path).replace(/page_size=\\d+/, "page_size=2"), options);
"""
"""A page of a list has two jobs, as if there were hundreds."""
COUNT_LISTS = """
const plain = window.fetch;
window.lists = 0;
window.fetch = async (path, options) => {
  const answer = await plain(path, options);
  if (String(path).startsWith("/v1/jobs?")) setTimeout(() => window.lists++, 200);
  return answer;
};
"""
"""Counts the lists of jobs that the page has shown."""
LONG = 3000
"""Steps of a job that does not end by itself while a test looks at it."""


def job_of(page: Page) -> str:
    return str(page.driver.execute_script("return new URLSearchParams(location.hash.slice(1)).get('job')"))


def inputs(server: ServerProcess, job_id: str) -> dict[str, str]:
    with impasto.Client(server.address) as client:
        return {item.field: item.name for item in client.job(job_id).info().inputs}


def cancel(page: Page) -> None:
    page.click("Cancel", "#job")
    page.reaches("Cancelled")


def test_dropped_files_become_a_downloaded_picture(page: Page, painter: ServerProcess, png: Png) -> None:
    """Drop, paint, see before and after, 1:1, download: the file is the server's."""
    page.add(png(96, 80), png(seed=1))
    page.paint(64, 4)
    assert page.reaches("Finished") == "Finished"
    page.wait(lambda: page.all("#stage .compare img.after"), "the picture")
    page.click("Before / after")
    slider = page.find(".compare input[type=range]")
    assert slider.get_attribute("value") == "50"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert page.driver.execute_script("return arguments[0].parentNode.style.getPropertyValue('--at')", slider) == "50.5%"
    page.click("Show at 1:1, a pixel for each pixel")
    assert page.driver.execute_script("return document.querySelector('.compare img.after').getBoundingClientRect().width") == 64
    page.click("Download", "#job")
    job_id = job_of(page)
    target = page.downloads / f"impasto-{job_id}.png"
    page.wait(target.exists, "the download")
    with impasto.Client(painter.address) as client:
        assert target.read_bytes() == client.job(job_id).result().data
    with Image.open(target) as image:
        assert image.size == (64, 53)
    page.wait(lambda: page.all("#gallery-list .card.current img[src]"), "its thumbnail")
    assert inputs(painter, job_id) == {"content": "photo.png", "styles[0].image": "style-0.png"}


def test_samples_start_with_one_click_each(page: Page) -> None:
    """A photo and two styles, with the names that the server keeps."""
    page.click("Use the sample valley")
    page.click("Use the sample swirls")
    page.click("Use the sample mosaic")
    page.wait(lambda: len(page.all("#styles .pic img[src]")) == 2, "two styles")
    assert page.text("#photo .name") == "photo-valley.jpg"
    assert page.text("#styles .name").split("\n") == ["swirls.jpg", "mosaic.jpg"]


def test_pause_resume_and_cancel(page: Page, png: Png) -> None:
    """A paused job keeps its steps; a cancelled one says so."""
    page.add(png(), png(seed=1))
    page.paint(64, LONG)
    page.reaches("Painting")
    page.wait(lambda: page.all("#stage .preview img"), "a preview", 60)
    page.click("Pause", "#job")
    page.reaches("Paused")
    before = int(page.text("#job .state span").split()[1])
    page.click("Resume", "#job")
    page.reaches("Painting")
    page.wait(lambda: int([*page.text("#job .state span").split(), "0", "0"][1]) > before, "more steps")
    assert "left" in page.text("#job .state span")
    cancel(page)


def test_a_reload_in_the_middle_loses_nothing(page: Page, png: Png) -> None:
    """The job, its curve from the first step, the pictures and the settings are there again."""
    page.add(png(), png(seed=1))
    page.set("content_weight", "0.2")
    page.paint(64, LONG)
    page.wait(lambda: page.all("#job .curve path.total[d]"), "the curve")
    job_id = job_of(page)
    page.driver.refresh()
    page.reaches("Painting")
    page.wait(lambda: page.all("#photo .pic img[src]") and page.all("#styles .pic img[src]"), "the pictures")
    assert job_of(page) == job_id
    assert page.find("#set-content_weight").get_attribute("value") == "0.2"
    assert page.find("#set-size_px").get_attribute("value") == "64"
    page.wait(lambda: (page.find("#job .curve path.total").get_attribute("d") or "").startswith("M0.0 "), "the whole curve")
    cancel(page)


def test_a_server_that_restarts_is_waited_for(tmp_path: Path, png: Png) -> None:
    """The page says that it is away, comes back by itself, and the job and the gallery's pictures survive."""
    listen = f"127.0.0.1:{free_port()}"
    settings = ("--listen", listen, "--data-dir", str(tmp_path / "data"), "--checkpoint-interval-s", "0.5", "--grace-s", "0.1")
    server = ServerProcess(*settings)
    web = WebProcess(listen)
    try:
        with browser(web.url) as page:
            page.open()
            page.add(png(), png(seed=1))
            page.paint(48, 3)
            page.reaches("Finished")
            first = job_of(page)
            page.paint(64, 1500)
            page.wait(lambda: job_of(page) not in (first, "None"), "the second job")
            page.reaches("Painting")
            second = job_of(page)
            page.wait(lambda: page.all("#job .curve path.total[d]"), "some steps")
            server.stop()
            page.wait(lambda: "nothing is lost" in page.text("#banner"), "the banner")
            assert page.state() in ("Painting", "Waiting", "Paused")
            server = ServerProcess(*settings)
            page.wait(lambda: not page.text("#banner"), "the banner to leave", 60)
            page.reaches("Painting")
            assert job_of(page) == second
            page.wait(lambda: len(page.all("#gallery-list .card")) == 2, "both jobs in the gallery")
            page.wait(lambda: page.all("#gallery-list .card:last-child img[src]"), "the first one's thumbnail")
            cancel(page)
            assert page.violations() == []
    finally:
        assert web.stop() in (0, -15)
        server.stop()


def test_a_page_that_crashes_does_not_take_the_server_down(png: Png) -> None:
    """It is started again at the same address; the job never noticed."""
    server = ServerProcess("--web", f"127.0.0.1:{free_port()}")
    try:
        with browser(page_of(server)) as page:
            page.open()
            page.add(png(), png(seed=1))
            page.paint(64, LONG)
            page.reaches("Painting")
            children = psutil.Process(server.process.pid).children()
            gateway = next(child for child in children if "--until-eof" in child.cmdline())
            gateway.kill()
            with impasto.Client(server.address) as client:
                assert client.job(job_of(page)).info().state == "running"
            page.wait(lambda: sum("impasto page at" in line for line in server.log) == 2, "the page to be started again")
            page.wait(lambda: not page.text("#banner"), "the page to come back")
            cancel(page)
            again = next(child for child in psutil.Process(server.process.pid).children() if "--until-eof" in child.cmdline())
            server.process.kill()
            again.wait(15)  # a page without its server ends by itself
    finally:
        if server.process.poll() is None:
            server.stop()


def test_errors_are_told_where_they_are(page: Page, png: Png) -> None:
    """A wrong setting, a text file, a damaged picture, an unknown job, and text in place of a number."""
    page.drop([("notes.txt", b"hello")])
    page.wait(lambda: "only PNG, JPEG and WebP" in page.text("#problem"), "a word on the file")
    page.add(png(), png(seed=1))
    assert not page.text("#problem")
    page.paint(99_999, 4)
    page.wait(lambda: "Size:" in page.text("#problem"), "a word on the size")
    assert page.find("#set-size_px").get_attribute("aria-invalid") == "true"
    page.set("size_px", "many")
    assert "not a whole number" in page.text("#set-size_px-wrong")
    page.click("Paint", "#compose")
    page.wait(lambda: "they are marked" in page.text("#problem"), "a word on the text")
    page.set("size_px", "64")
    assert page.find("#set-size_px").get_attribute("aria-invalid") is None
    thin = encoded(Image.new("RGB", (90, 3)))  # whole, but of a shape that only the server refuses
    page.drop([("thin.png", thin)])
    page.wait(lambda: len(page.all("#styles .pic")) == 2, "the thin style")
    page.click("Paint", "#compose")
    page.wait(lambda: "Style 2:" in page.text("#problem"), "a word on the thin style")
    page.driver.get(f"{page.url}#job=none")
    page.wait(lambda: "not on the server" in page.text("#job"), "a word on the job")


def test_a_setting_that_cannot_be_read_is_not_replaced(page: Page, png: Png) -> None:
    """However often Paint is pressed, nothing is sent and the text stays. What only the server refused is sent again."""
    page.add(png(), png(seed=1))
    page.set("size_px", "48")
    for text in ("abc", "2.5"):
        page.set("steps", text)
        assert "not a whole number" in page.text("#set-steps-wrong")
        for _ in range(2):
            page.click("Paint", "#compose")
            page.wait(lambda: "they are marked" in page.text("#problem"), "a word on the steps")
            page.driver.execute_script("document.querySelector('#problem').replaceChildren()")
        assert page.find("#set-steps").get_attribute("value") == text
        assert page.find("#set-steps").get_attribute("aria-invalid") == "true"
    page.paint(99_999, 2)
    page.wait(lambda: "Size:" in page.text("#problem"), "a word on the size")
    page.driver.execute_script("document.querySelector('#problem').replaceChildren()")
    page.click("Paint", "#compose")
    page.wait(lambda: "Size:" in page.text("#problem"), "a word on the size again")
    assert job_of(page) == "None"
    page.paint(48, 2)
    page.reaches("Finished")


def test_files_that_cannot_be_used_are_named_at_once(tmp_path: Path, png: Png) -> None:
    """By what is in them: text, nothing, other formats, damage, too many bytes or pixels. The others are used."""
    server = ServerProcess(
        "--web", "127.0.0.1:0", "--max-message-bytes", "100000", "--max-image-pixels", "10000", "--max-styles", "1"
    )
    noise = encoded(Image.effect_noise((400, 400), 90))
    files = [
        ("text.png", b"hello"), ("nothing.png", b""), ("turning.gif", encoded(Image.new("RGB", (9, 9)), "GIF")),
        ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(20)), ("broken.png", png(64, 64, seed=2)[:60]), ("heavy.png", noise),
        ("wide.png", encoded(Image.new("RGB", (200, 100)))), ("misnamed.txt", png()), ("style.png", png(seed=1)),
        ("second.png", png(seed=2)),
    ]  # fmt: skip
    try:
        with browser(page_of(server)) as page:
            page.open()
            page.drop(files)
            page.wait(lambda: "second.png" in page.text("#problem"), "the last one")
            assert page.text("#problem .refused li").split("\n") == [
                f"text.png {NO_PICTURE}",
                "nothing.png is empty.",
                "turning.gif is a file of the kind GIF; only PNG, JPEG and WebP pictures can be used.",
                "phone.heic is a file of the kind HEIC; only PNG, JPEG and WebP pictures can be used.",
                "broken.png is damaged, or too large for this browser.",
                f"heavy.png has {len(noise) / 2**20:.1f} MiB; the server takes at most 0.1 MiB.",
                "wide.png has 200 \u00d7 100 pixels; the server takes at most 10000.",
                "second.png is left out; the server takes at most 1 style.",
            ]
            assert page.text("#photo .name") == "misnamed.txt"
            assert page.text("#styles .name") == "style.png"
            chosen = tmp_path / "chosen.jpg"
            chosen.write_bytes(b"no picture")
            page.find("#styles input[type=file]").send_keys(str(chosen))
            page.wait(lambda: page.text("#problem .refused li") == f"chosen.jpg {NO_PICTURE}", "a word on the chosen file")
            assert page.violations() == []
    finally:
        server.stop()


def test_a_full_queue_says_when_to_try_again(tmp_path: Path, png: Png) -> None:
    """And a waiting job says how many are ahead."""
    server = ServerProcess("--web", "127.0.0.1:0", "--max-queued-jobs", "2")
    try:
        with impasto.Client(server.address) as client, browser(page_of(server)) as page:
            jobs = [client.submit(png(), png(seed=1), size_px=64, steps=LONG) for _ in range(2)]
            page.open()
            page.add(png(), png(seed=1))
            page.paint(64, 4)
            page.reaches("Waiting")
            page.wait(lambda: "1 ahead in the queue" in page.text("#job .state span"), "its place in the queue")
            page.click("Paint", "#compose")
            page.wait(
                lambda: "The queue is full." in page.text("#problem") and "Try again in" in page.text("#problem"), "a word"
            )
            for job in jobs:
                job.cancel()
            page.reaches("Finished")
    finally:
        server.stop()


def test_a_mask_is_brushed_undone_and_used(page: Page, painter: ServerProcess, png: Png) -> None:
    """What is not brushed stays as it was in the photo."""
    page.add(encoded(Image.new("RGB", (96, 96), (40, 120, 200))), png(seed=1))
    page.click("Paint only a part")
    canvas = page.find("#brush canvas")
    page.click("All", "#brush")
    page.click("Undo", "#brush")
    white = "const c = document.querySelector('#brush canvas'); return [...c.getContext('2d').getImageData(12, 48, 1, 1).data]"
    assert page.driver.execute_script(white)[:3] == [40, 120, 200]
    page.driver.execute_script(
        "const s = document.querySelector('#brush-size'); s.value = 24; s.dispatchEvent(new Event('input'))"
    )
    # Only the left side.
    drag = ActionChains(page.driver).move_to_element_with_offset(canvas, -int(canvas.size["width"] * 0.4), 0).click_and_hold()
    drag.move_by_offset(4, 10).move_by_offset(0, -20).release().perform()
    page.click("Use it", "#brush")
    page.wait(lambda: "Only a part is painted." in page.text("#photo"), "the mask")
    page.paint(96, 6)
    page.reaches("Finished")
    job_id = job_of(page)
    assert "mask" in inputs(painter, job_id)
    with impasto.Client(painter.address) as client:
        image = client.job(job_id).result().image.convert("RGB")
    assert image.getpixel((90, 5)) == (40, 120, 200)
    changed = sum(image.getpixel((x, 48)) != (40, 120, 200) for x in range(20))
    assert changed > 5


def test_two_styles_go_to_two_regions(page: Page, painter: ServerProcess, png: Png) -> None:
    """A brush with the keyboard for one; the other one goes everywhere else."""
    page.add(png(96, 96), png(seed=1), png(seed=2))
    page.click("Where it goes", "#styles .pic:nth-of-type(2)")
    canvas = page.find("#brush canvas")
    canvas.send_keys(Keys.ARROW_LEFT, " ", Keys.ARROW_LEFT, " ", "z")
    page.click("Use it", "#brush")
    page.wait(lambda: page.text("#styles button").split("\n").count("Change where it goes") == 2, "both regions")
    page.paint(64, 3)
    page.reaches("Finished")
    job_id = job_of(page)
    found = inputs(painter, job_id)
    assert {"styles[0].region", "styles[1].region"} <= set(found)
    assert {found["styles[0].region"], found["styles[1].region"]} == {"mask.png", "inverse mask.png"}


def test_settings_come_back_from_the_gallery_and_from_a_file(page: Page, painter: ServerProcess, png: Png) -> None:
    """The preset, what was changed, the pictures and their shares; a dropped file says it by its metadata."""
    page.add(png(), png(seed=1), png(seed=2))
    page.choose("#styles input[type=range]", "0.4")
    page.set("color", "COLOR_MATCHED")
    page.set("seed", "42")
    page.set("style_layers", "relu2_1=1, relu3_1=0.5")
    page.paint(64, 4)
    page.reaches("Finished")
    job_id = job_of(page)

    def forget() -> None:
        page.driver.execute_script("localStorage.clear(); location.hash = ''")
        page.driver.refresh()
        page.wait(lambda: page.text("#about-text") == "Ready", "the page")
        assert not page.all("#styles .pic")

    def back() -> None:
        page.wait(lambda: len(page.all("#styles .pic img[src]")) == 2, "the styles")
        values = {
            name: page.find(f"#set-{name}").get_attribute("value")
            for name in ("color", "seed", "steps", "size_px", "style_layers")
        }
        assert values == {
            "color": "COLOR_MATCHED",
            "seed": "42",
            "steps": "4",
            "size_px": "64",
            "style_layers": "relu2_1=1, relu3_1=0.5",
        }
        assert page.find("#styles input[type=range]").get_attribute("value") == "0.4"
        assert page.text("#photo .name") == "photo.png"

    forget()
    page.wait(lambda: page.all("#gallery-list .card .link"), "the gallery")
    page.driver.execute_script("document.querySelector('#gallery-list .card .link').click()")
    back()
    forget()
    with impasto.Client(painter.address) as client:
        data = client.job(job_id).result().data
    page.drop([("painted.png", data)])
    back()
    page.choose("#set-preset", "best")  # how far the painting goes is the preset's then, the rest is the picture's
    kept = {name: page.find(f"#set-{name}").get_attribute("value") for name in ("color", "seed", "steps")}
    assert kept == {"color": "COLOR_MATCHED", "seed": "42", "steps": "160"}
    page.set("steps", "7")
    page.choose("#set-preset", "draft")
    assert page.find("#set-steps").get_attribute("value") == "7"


def test_a_grid_of_variations_survives_a_reload(page: Page, png: Png) -> None:
    """A job for each value, shown together with its value; one opens by a click."""
    page.add(png(), png(seed=1))
    page.set("size_px", "48")
    page.set("steps", "3")
    page.click("Grid of variations")
    field = page.find("#vary-values")
    page.wait(lambda: field.get_attribute("value"), "suggested values")
    field.clear()
    field.send_keys("0.01, 0.1, x")
    page.click("Paint the grid")
    page.wait(lambda: "not a number" in page.text("#vary-wrong"), "a word on the value")
    field.clear()
    field.send_keys("0.01, 0.1, 1")
    page.click("Paint the grid")
    page.wait(lambda: len(page.all("#stage .cells .card img[src]")) == 3, "three pictures", 60)
    page.wait(lambda: len(page.all("#gallery-list .card")) >= 3, "them in the gallery too")
    page.driver.refresh()
    page.wait(lambda: len(page.all("#stage .cells .card img[src]")) == 3, "three pictures after a reload", 60)
    assert page.text("#stage .cells .text b").split("\n") == [f"Content weight {value}" for value in ("0.01", "0.1", "1")]
    page.driver.execute_script("document.querySelector('#stage .cells .card button').click()")
    page.reaches("Finished")


def test_a_token_is_asked_for_and_kept_in_the_tab_only(tmp_path: Path, png: Png) -> None:
    """A wrong one is told; it never lies in local storage."""
    token, line = new_token("ann")
    (tmp_path / "tokens").write_text(line)
    server = ServerProcess("--web", "127.0.0.1:0", "--tokens", str(tmp_path / "tokens"))
    try:
        with browser(page_of(server)) as page:
            page.open()
            page.wait(lambda: page.find("#token").is_displayed(), "the question for a token")
            page.driver.execute_script(LATE_ANSWERS)
            page.find("#token-value").send_keys("wrong\n")
            page.wait(lambda: "does not know this token" in page.text("#token-why"), "a word on the token")
            page.find("#token-value").send_keys(f"{token}\n")
            page.wait(lambda: page.text("#about-text") == "Ready", "the server")
            page.wait(lambda: page.driver.execute_script("return window.late"), "late answers to the wrong token")
            assert not page.find("#token").is_displayed()
            page.add(png(), png(seed=1))
            page.paint(48, 2)
            page.reaches("Finished")
            page.wait(lambda: page.all("#stage .compare img.after"), "the picture")
            kept = page.driver.execute_script(
                "return [JSON.stringify(localStorage), sessionStorage.getItem('impasto.token'), document.cookie]"
            )
            assert token not in kept[0]
            assert kept[1:] == [token, ""]
            page.driver.refresh()
            page.wait(lambda: page.all("#gallery-list .card img[src]"), "the gallery")
            page.click("Token")
            page.click("Forget it", "#token")
            page.wait(lambda: page.find("#token").is_displayed() and not page.all("#styles .pic"), "an empty page")
            assert page.driver.execute_script("return sessionStorage.getItem('impasto.token')") is None
    finally:
        server.stop()


def test_names_of_files_are_text(page: Page, png: Png) -> None:
    """Markup in a name is shown, never run."""
    name = "<img src=x onerror=document.title=1>.png"
    page.drop([(name, png()), ("<b>s</b>.png", png(seed=1))])
    page.wait(lambda: page.text("#photo .name") == name, "the name")
    page.paint(48, 2)
    page.reaches("Finished")
    page.wait(lambda: "<b>s</b>" in page.text("#gallery-list"), "the name in the gallery")
    assert page.driver.title == "impasto"


def test_everything_can_be_done_with_the_keyboard(page: Page, png: Png) -> None:
    """Tab reaches the samples and Paint, in the order of the page; Escape closes a dialog and focus is visible."""
    page.wait(lambda: page.all("#style-samples button"), "the samples")
    focused = "const item = document.activeElement; return [item.innerText.trim(), item.getAttribute('aria-label')]"

    def press(key: str) -> None:
        ActionChains(page.driver).send_keys(key).perform()

    def tab_to(text: str) -> None:
        for _ in range(60):
            if text in page.driver.execute_script(focused):
                return
            press(Keys.TAB)
        raise AssertionError(text)

    tab_to("Skip to the pictures")
    press(Keys.ENTER)

    tab_to("Use the sample fruit")
    press(Keys.ENTER)
    page.wait(lambda: page.all("#photo .pic img[src]"), "the photo")
    tab_to("Use the sample embers")
    press(Keys.ENTER)
    page.wait(lambda: page.all("#styles .pic img[src]"), "the style")
    page.set("size_px", "48")
    page.set("steps", "2")
    tab_to("Paint")
    press(Keys.ENTER)
    page.reaches("Finished")
    page.driver.execute_script("document.activeElement.blur()")
    page.find("#about-open").send_keys(Keys.ENTER)
    page.wait(lambda: "vgg16" in page.text("#about-body"), "the server's description")
    press(Keys.ESCAPE)
    page.wait(lambda: not page.find("#about").is_displayed(), "the closed dialog")


def test_the_page_fits_a_phone(painter: ServerProcess, png: Png) -> None:
    """Nothing is wider than the screen, before and after painting; buttons are large enough for a finger."""
    with browser(page_of(painter), PHONE, mobile=True) as page:
        page.open()
        wide = "return document.documentElement.scrollWidth - innerWidth"
        assert page.driver.execute_script(wide) <= 0
        page.add(png(), png(seed=1), png(seed=2))
        page.paint(48, 2)
        page.reaches("Finished")
        assert page.driver.execute_script(wide) <= 0
        page.click("Paint only a part")
        assert page.driver.execute_script(wide) <= 0
        page.click("Cancel", "#brush")
        small = """return [...document.querySelectorAll("button, select")]
            .filter(item => item.offsetParent && item.offsetHeight < 24).map(item => item.innerText)"""
        assert page.driver.execute_script(small) == []


def test_the_gallery_deletes_and_filters(page: Page, png: Png) -> None:
    """A deleted picture leaves; the filter shows only what it says."""
    page.add(png(), png(seed=1))
    page.paint(48, 2)
    page.reaches("Finished")
    job_id = job_of(page)
    page.driver.execute_script("window.confirm = () => true")
    page.click("Delete", "#job")
    page.wait(lambda: job_of(page) == "None", "nothing shown")
    assert httpx.get(f"{page.url}v1/jobs/{job_id}", trust_env=False).status_code == 404
    page.choose("#gallery-state", "queued,running,paused")
    page.wait(lambda: not page.all("#gallery-list .card"), "an empty gallery")
    assert "Nothing painted yet" not in page.text("#gallery-list")


def test_the_gallery_keeps_what_it_shows(png: Png) -> None:
    """More pictures stay while a job runs and when one is opened; one that is deleted leaves, however far down it is."""
    server = ServerProcess("--web", "127.0.0.1:0", "--grace-s", "0.1")
    try:
        with impasto.Client(server.address) as client, browser(page_of(server)) as page:
            jobs = [client.submit(png(), png(seed=1), size_px=64, steps=LONG) for _ in range(26)]
            page.open()
            page.wait(lambda: len(page.all("#gallery-list .card")) == 24, "a page of pictures")
            page.click("Show more", "#gallery")
            page.wait(lambda: len(page.all("#gallery-list .card")) == 26, "all pictures")
            page.driver.execute_script(COUNT_LISTS)
            page.wait(lambda: page.driver.execute_script("return window.lists") >= 2, "two refreshes")
            page.driver.execute_script("document.querySelector('#gallery-list .card:last-child button').click()")
            page.wait(lambda: page.all("#gallery-list .card:last-child.current"), "the oldest one, opened")
            before = page.driver.execute_script("return window.lists")
            page.wait(lambda: page.driver.execute_script("return window.lists") > before, "another refresh")
            assert len(page.all("#gallery-list .card")) == 26
            jobs[1].delete()
            page.wait(lambda: len(page.all("#gallery-list .card")) == 25, "a picture less")
    finally:
        server.stop()


def test_the_gallery_shows_its_filter_whatever_is_under_way(page: Page, png: Png) -> None:
    """A list that was asked for before the filter changed is not shown after it."""
    page.add(png(), png(seed=1))
    page.paint(48, 2)
    page.reaches("Finished")
    page.wait(lambda: page.all("#gallery-list .card.current"), "the picture in the gallery")
    page.driver.execute_script(HELD_LISTS)
    page.driver.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait(lambda: page.driver.execute_script("return window.held"), "a list that does not come")
    page.choose("#gallery-state", "failed,cancelled")
    page.driver.execute_script("window.release()")
    page.wait(lambda: not page.all("#gallery-list .card.current"), "a gallery without it")


def test_a_grid_is_found_behind_newer_jobs(page: Page, painter: ServerProcess, png: Png) -> None:
    """However many pages of them there are; what is no longer there is said once."""
    with impasto.Client(painter.address) as client:
        for name in ("grid.old.steps.0", "grid.old.steps.1", "a", "b", "c"):
            client.submit(png(), png(seed=1), size_px=48, steps=2, request_id=name).result()
    page.driver.execute_script(SMALL_LISTS)
    page.driver.execute_script("location.hash = 'grid=grid.old.steps'")
    page.wait(lambda: len(page.all("#stage .cells .card")) == 2, "both pictures")
    page.driver.execute_script("location.hash = 'grid=grid.none.steps'")
    page.wait(lambda: "no longer on the server" in page.text("#stage"), "a word on a grid that was deleted")


@pytest.mark.parametrize("photo", ["jpeg", "webp"])
def test_other_formats_work(page: Page, png: Png, photo: str) -> None:
    """Of photos, and of the downloaded file."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(png())) as image:
        image.convert("RGB").save(out, photo)
    page.drop([(f"p.{photo}", out.getvalue()), ("s.png", png(seed=1))])
    page.wait(lambda: page.all("#styles .pic img[src]"), "the pictures")
    page.set("format", f"IMAGE_FORMAT_{photo.upper()}")
    page.paint(48, 2)
    page.reaches("Finished")
    page.click("Download", "#job")
    ending = {"jpeg": "jpg", "webp": "webp"}[photo]
    target = page.downloads / f"impasto-{job_of(page)}.{ending}"
    page.wait(target.exists, "the download")
    time.sleep(0.1)
    with Image.open(target) as image:
        assert image.format == photo.upper()
