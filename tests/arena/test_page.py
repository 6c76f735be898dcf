"""The report's page: offline, escaped, and sorted by clicking in a real browser."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detheads.arena.records import Row
from detheads.arena.report import write_report
from tests.arena.by_hand import done, failed, find_everything, setting, write_arena
from tests.report.browser import Elements, browser, requested
from tests.training.world import World

__all__ = ["browser"]

HOSTILE = "<script>document.title = 'taken over'</script>"
ROWS = (
    done("fcos", 0.25, 16_000_000, milliseconds=30.5),
    done("tropical", 0.31, 9_000_000, milliseconds=100.25, nms_free=True),
    done("wavelet", 0.28, 900_000, milliseconds=None, latency_remark=f"no file {HOSTILE}"),
    done("curvature", 0.125, 40_000, per_class={HOSTILE: 0.5, "ring": -1.0}, summary=HOSTILE),
    failed("broken", f"ValueError: {HOSTILE}"),
)


@pytest.fixture(scope="module")
def page(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an arena whose texts are all hostile. Its folder has a name with a space."""
    folder = tmp_path_factory.mktemp("an arena")
    given = setting(world, dataset=HOSTILE, classes=(HOSTILE, "ring"), machine=HOSTILE)
    write_arena(folder, given, *ROWS)
    for row in ROWS:
        if row.status == "done":
            find_everything(folder, row.head, world)
    return write_report(folder, data=world.data, pictures=2).page


def test_the_page_asks_for_nothing_from_elsewhere(page: Path) -> None:
    elements = Elements(page)
    sources = elements.sources()
    assert len(sources) == 1 + 2 + 2 * 5  # an empty icon, two plots, two pictures with the ground truth and four heads
    assert all(source is not None and source.startswith("data:") for source in sources)
    text = page.read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import|\bfetch\(|XMLHttpRequest", text)
    policy = next(
        meta["content"] for meta in elements.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_no_text_of_a_head_or_dataset_becomes_an_element(page: Path) -> None:
    elements = Elements(page)
    assert len(elements.all("script")) == 1
    for text in (f"Arena: {HOSTILE}", f"2: {HOSTILE}, ring", f"ValueError: {HOSTILE}", f"no file {HOSTILE}"):
        assert text in elements.text
    assert elements.text.count(HOSTILE) >= 7  # with title, machine, summary and class


def test_the_pictures_inside_the_page_are_whole(page: Path) -> None:
    images = Elements(page).all("img")
    assert all(image["alt"] for image in images)
    kinds = []
    for image in images:
        kind, _, data = str(image["src"]).partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()
            assert picture.format is not None
            assert kind == f"data:image/{picture.format.lower()}"
            kinds.append(picture.format)
    assert kinds == ["PNG"] * 2 + ["JPEG"] * 10
    assert page.stat().st_size < 5_000_000


def test_every_head_has_its_details(page: Path) -> None:
    elements = Elements(page)
    assert len(elements.all("details")) == len(ROWS)
    for text in ("width", "1,234 candidate boxes", "undefined", "logs/broken.log"):
        assert text in elements.text


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    browser.get(page.as_uri())
    return browser


def _order(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#leaderboard tbody tr')].map((row) => row.cells[0].textContent)"
    order: list[str] = browser.execute_script(script)
    return order


def _button(browser: Any, title: str) -> Any:
    return browser.find_element("xpath", f"//th/button[text()='{title}']")


def _sorted(browser: Any) -> dict[str, str]:
    """Sorted columns and their direction, as a screen reader learns them."""
    marked = browser.find_elements("css selector", "th[aria-sort]")
    return {head.text.strip(): head.get_attribute("aria-sort") for head in marked}


def _by(key: str, *, reverse: bool = False) -> list[str]:
    """The order of the heads by a field of their rows, those without a value last."""

    def value(row: Row) -> Any:
        return row.metrics.get(key, getattr(row, key, None))

    known = sorted((row for row in ROWS if value(row) is not None), key=value, reverse=reverse)
    return [row.head for row in known] + [row.head for row in ROWS if value(row) is None]


def test_a_click_sorts_and_another_turns_the_order_round(opened: Any) -> None:
    assert _order(opened) == _by("AP", reverse=True)
    assert _sorted(opened) == {"AP": "descending"}
    _button(opened, "parameters").click()
    assert _order(opened) == _by("parameters")
    assert _sorted(opened) == {"parameters": "ascending"}
    _button(opened, "parameters").click()
    assert _order(opened) == _by("parameters", reverse=True)
    assert _sorted(opened) == {"parameters": "descending"}
    assert _order(opened)[-1] == "broken"


def test_numbers_sort_as_numbers_and_unknown_ones_come_last(opened: Any) -> None:
    _button(opened, "ms").click()
    assert _order(opened) == ["curvature", "fcos", "tropical", "wavelet", "broken"]
    _button(opened, "ms").click()
    assert _order(opened) == ["tropical", "fcos", "curvature", "wavelet", "broken"]
    _button(opened, "head").click()
    assert _order(opened) == sorted(row.head for row in ROWS)


def test_the_keyboard_sorts_too(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.execute_script("document.querySelector('#leaderboard thead button').focus()")
    for _ in range(6):  # from the heads' names to the parameters
        opened.switch_to.active_element.send_keys(Keys.TAB)
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert _order(opened) == _by("parameters")
    opened.switch_to.active_element.send_keys(Keys.SPACE)
    assert _order(opened) == _by("parameters", reverse=True)


def test_a_browser_shows_all_pictures_runs_no_foreign_script_and_complains_of_nothing(opened: Any, page: Path) -> None:
    assert opened.title == f"Arena: {HOSTILE}"
    shown = "return [...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    assert opened.execute_script(shown)
    assert opened.get_log("browser") == []
    asked = requested(opened)
    assert asked
    assert all(url == page.as_uri() or url.startswith("data:") for url in asked)


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_no_wider_than_the_screen(opened: Any, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
