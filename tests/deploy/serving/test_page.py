"""The page in a real Chromium, against a server process: what it shows is what the server answers."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from detheads.deploy import Detector
from tests.export.toy import CATEGORIES, Toy
from tests.report.browser import browser, requested

__all__ = ["browser"]

PICTURE = "bild 5.png"
PATIENCE = 10
"""Seconds until a page that works has changed."""


def until(browser: Any, script: str) -> Any:
    """The value of a script, when it is true at last."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, PATIENCE, 0.02).until(lambda driver: driver.execute_script(f"return {script}"))


def boxes(browser: Any) -> np.ndarray[Any, Any]:
    """Of what is drawn: left, top, right, bottom in pixels of the picture, best first."""
    script = "return [...document.querySelectorAll('#boxes rect.box')].map((box) => box.getBBox())"
    drawn = [
        [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
        for box in browser.execute_script(script)
    ]
    return np.array(drawn[::-1]).reshape(-1, 4)


def slide(browser: Any, score: float) -> float:
    """Move the slider; where it came to stand."""
    script = "const [value] = arguments; threshold.value = value; threshold.dispatchEvent(new Event('input'))"
    browser.execute_script(script, score)
    return float(browser.execute_script("return threshold.value"))


def show(browser: Any, picture: Path) -> None:
    """Choose a file, and wait for the answer."""
    browser.execute_script("timing.textContent = ''")
    browser.find_element("id", "file").send_keys(str(picture))
    until(browser, "timing.textContent")


@pytest.fixture
def page(browser: Any, address: str) -> Any:
    browser.get(f"http://{address}/")
    until(browser, "!model.disabled")
    requested(browser)
    browser.get_log("browser")
    return browser


@pytest.fixture(scope="module")
def answer(address: str, toy: Toy) -> dict[str, Any]:
    found = httpx.post(f"http://{address}/v1/detect", content=(toy.images / PICTURE).read_bytes()).json()
    assert len(found["detections"]) > 10
    return found


def test_a_chosen_picture_shows_the_boxes_of_the_answer(page: Any, toy: Toy, answer: dict[str, Any]) -> None:
    show(page, toy.images / PICTURE)
    for wanted in (0.0, 0.7, 0.72, 1.0):
        lowest = slide(page, wanted)
        expected = [entry["box"] for entry in answer["detections"] if entry["score"] >= lowest]
        np.testing.assert_allclose(boxes(page), np.reshape(expected, (-1, 4)), atol=0.01)
        assert len(page.find_elements("css selector", "#found tr")) == len(expected)
    assert page.execute_script("return boxes.getAttribute('aria-label')") == "No objects"
    asked = [url for url in requested(page) if "/v1/detect" in url]
    assert len(asked) == 1, "the slider asks nobody"


def test_names_stand_at_their_boxes_inside_the_picture(page: Any, toy: Toy) -> None:
    show(page, toy.images / PICTURE)
    slide(page, 0)
    script = """
        return [...boxes.children].map((group) => [...group.children].map((part) => {
          const { x, y, width, height } = part.getBBox();
          return [x, y, x + width, y + height];
        }))
    """
    groups = np.array(page.execute_script(script))
    assert len(groups) > 10
    for box, tag, text in groups:
        assert (tag[:2] >= 0).all() and tag[2] <= 640.01
        assert tag[0] == pytest.approx(min(box[0], 640 - (tag[2] - tag[0])), abs=0.01)
        assert box[1] == pytest.approx(tag[3], abs=0.01) or box[1] == pytest.approx(tag[1], abs=0.01)
        assert tag[0] < text[0] and text[2] < tag[2]


def test_the_slider_begins_where_drawing_does(page: Any, detector: Detector) -> None:
    lowest = float(page.execute_script("return threshold.value"))
    assert lowest == pytest.approx(detector.draw_scores.min(), abs=0.01)


def test_classes_are_switched_off_and_on(page: Any, toy: Toy, answer: dict[str, Any]) -> None:
    show(page, toy.images / PICTURE)
    slide(page, 0)
    chips = page.find_elements("css selector", "#classes label")
    names = [entry["name"] for entry in answer["detections"]]
    assert [chip.text.rsplit(maxsplit=1) for chip in chips] == [
        [category.name, str(names.count(category.name))] for category in CATEGORIES
    ]
    chips[0].click()
    assert len(boxes(page)) == len(names) - names.count(CATEGORIES[0].name) > 0
    page.find_element("id", "none").click()
    assert len(boxes(page)) == 0
    page.find_element("id", "all").click()
    assert len(boxes(page)) == len(names)


def test_a_dropped_picture_is_shown_too(page: Any, toy: Toy, answer: dict[str, Any]) -> None:
    script = """
        const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
        stage.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    """
    page.execute_script(script, base64.b64encode((toy.images / PICTURE).read_bytes()).decode())
    until(page, "timing.textContent")
    slide(page, 0)
    assert len(boxes(page)) == len(answer["detections"])
    assert page.execute_script("return [picture.naturalWidth, picture.alt]") == [640, "dropped.png"]


def test_boxes_lie_over_the_picture_at_any_size(page: Any, toy: Toy) -> None:
    show(page, toy.images / "bild 0.png")  # upright
    for width in (360, 1200):
        metrics = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": width < 500}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            script = "return [picture, boxes].map((shown) => shown.getBoundingClientRect()).map((at) => at.toJSON())"
            picture, drawing = page.execute_script(script)
            assert picture == drawing
            assert picture["width"] / picture["height"] == pytest.approx(97 / 301, rel=0.02)
            assert page.execute_script("return document.documentElement.scrollWidth") <= width
        finally:
            page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_camera_is_watched_until_it_is_stopped(page: Any) -> None:
    button = page.find_element("id", "camera")
    slide(page, 0)
    button.click()
    until(page, "timing.textContent.includes('pictures/s')")
    assert len(boxes(page)) > 0
    assert page.execute_script("return [video.videoWidth > 0, video.paused]") == [True, False]
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.execute_script("return video.srcObject") is None
    assert len(boxes(page)) == 0
    requested(page)
    page.execute_async_script("setTimeout(arguments[0], 200)")
    assert requested(page) == []


def test_the_bundle_is_chosen(page: Any, toy: Toy) -> None:
    assert page.execute_script("return [...model.options].map((option) => option.value)") == ["toy", "second"]
    show(page, toy.images / PICTURE)
    page.execute_script("timing.textContent = ''")
    page.find_element("xpath", "//option[text()='second']").click()
    until(page, "timing.textContent")
    asked = [url.partition("?")[2] for url in requested(page) if "/v1/detect" in url]
    assert asked == ["model=toy&score=0", "model=second&score=0"]


def test_what_the_server_refuses_is_said(page: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"GIF89a no picture")
    page.find_element("id", "file").send_keys(str(broken))
    assert "image" in until(page, "message.checkVisibility() && message.textContent")
    assert len(boxes(page)) == 0


def test_the_token_is_asked_for_and_kept_for_the_tab(
    browser: Any, serve: Callable[..., Any], bundle: Path, toy: Toy
) -> None:
    with serve({"toy": bundle}, token="geheim") as (client, _):
        browser.get(str(client.base_url))
        until(browser, "access.checkVisibility()")
        field = browser.find_element("id", "token")
        field.send_keys("falsch\n")
        until(browser, "message.textContent.includes('another token')")
        assert field.is_displayed()
        field.clear()
        field.send_keys("geheim\n")
        until(browser, "!model.disabled")
        assert not field.is_displayed()
        show(browser, toy.images / PICTURE)
        browser.refresh()
        until(browser, "!model.disabled")
        assert not browser.find_element("id", "access").is_displayed()


def test_nothing_is_asked_of_anybody_else(browser: Any, address: str, toy: Toy) -> None:
    requested(browser)
    browser.get_log("browser")
    browser.get(f"http://{address}/")
    until(browser, "!model.disabled")
    show(browser, toy.images / PICTURE)
    asked = requested(browser)
    assert len(asked) >= 6
    assert all(url.startswith((f"http://{address}/", f"blob:http://{address}/", "data:,")) for url in asked)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}] == []
    policy = httpx.get(f"http://{address}/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and "http" not in policy


MANY = """
    const real = window.fetch;
    window.fetch = async (address, options) => {
      const reply = await real(address, options);
      if (!address.includes("models")) return reply;
      const document = await reply.json();
      document.models[0].classes = [...Array(80).keys()].map((number) => `<b>class ${number}</b>`);
      return new Response(JSON.stringify(document));
    };
"""


def test_many_classes_can_be_searched_and_their_names_are_only_text(browser: Any, address: str) -> None:
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": MANY})
    try:
        browser.get(f"http://{address}/")
        until(browser, "!model.disabled")
        browser.find_element("id", "search").send_keys("CLASS 7")
        chips = [chip for chip in browser.find_elements("css selector", "#classes label") if chip.is_displayed()]
        assert [chip.text for chip in chips] == [f"<b>class {number}</b>" for number in (7, *range(70, 80))]
        browser.find_element("id", "none").click()
        assert browser.execute_script("return classes.querySelectorAll(':checked').length") == 80 - 11
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_a_server_that_is_gone_and_a_camera_that_is_refused_are_said(
    browser: Any, serve: Callable[..., Any], bundle: Path, toy: Toy
) -> None:
    with serve({"toy": bundle}) as (client, _):
        browser.get(str(client.base_url))
        until(browser, "!model.disabled")
        browser.execute_script("navigator.mediaDevices.getUserMedia = () => { throw new Error('Permission denied') }")
        browser.find_element("id", "camera").click()
        assert until(browser, "message.textContent") == "The camera does not start: Permission denied."
        assert browser.find_element("id", "camera").text == "Start the camera"
    browser.find_element("id", "file").send_keys(str(toy.images / PICTURE))
    until(browser, "message.textContent == 'The server does not answer.'")


def test_every_control_has_a_name_and_the_keyboard_reaches_it(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    script = "return [...document.querySelectorAll('button, input, select')].filter((each) => each.checkVisibility())"
    controls = page.execute_script(script)
    assert len(controls) >= 6
    assert all(control.accessible_name.strip() for control in controls)
    page.execute_script("document.activeElement.blur()")
    reached = []
    for _ in controls:
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(page.switch_to.active_element.id)
    assert reached == [control.id for control in controls]
    before = float(page.execute_script("return threshold.value"))
    page.find_element("id", "threshold").send_keys(Keys.ARROW_RIGHT)
    assert float(page.execute_script("return shown.textContent")) == pytest.approx(before + 0.01)
