"""The page and the Markdown of a document: offline, escaped, and the same values in both."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detheads.report.files import write_document
from detheads.report.markdown import plain, table_lines
from detheads.report.pictures import Example, Panel
from detheads.report.sections import Column, Document, Plot, Section, Table
from tests.report.browser import Elements, browser, requested

__all__ = ["browser"]

HOSTILE = "<script>document.title = 'taken over'</script>"
NAMES = ("a | b", "[x](http://y)", "*bold* `code`", "😀 é", HOSTILE)


def _picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (80, 60), "teal").save(stream, kind)
    return stream.getvalue()


def document(**changes: Any) -> Document:
    columns = [Column("class", high_first=False), Column("objects", ","), Column("AP", ".3f", "mean over IoU")]
    table = Table(columns, [(name, 1234 * n, None if n == 2 else n / 8) for n, name in enumerate(NAMES)], sorted_by=2)
    tiles = Table([Column("statistic"), Column("value", ".4f")], [("AP", 0.5), ("APl", None)], tiles=True)
    example = Example(7, HOSTILE, (Panel("truth: 1 box", _picture("JPEG")), Panel(HOSTILE, _picture("JPEG"))))
    values: dict[str, Any] = {
        "title": f"Report {HOSTILE}",
        "verdict": HOSTILE,
        "facts": {"Data": HOSTILE},
        "sections": [
            Section("Scores", [tiles], sentences=[HOSTILE]),
            Section("Classes", [table], [Plot(HOSTILE, "plot.png", _picture("PNG"))]),
            Section("Pictures", examples=[example]),
        ],
        "answer": {"names": list(NAMES)},
    }
    return Document(**values | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written document. The folder has a name with a space."""
    target = tmp_path_factory.mktemp("a report") / "deep"
    write_document(document(), target)
    return target


def test_the_page_asks_for_nothing_from_elsewhere_and_its_pictures_are_whole(folder: Path) -> None:
    elements = Elements(folder / "index.html")
    sources = elements.sources()
    assert len(sources) == 1 + 1 + 2  # an empty icon, a plot and two panels
    assert all(source is not None and source.startswith("data:") for source in sources)
    for image in elements.all("img"):
        kind, _, data = str(image["src"]).partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert kind == f"data:image/{str(picture.format).lower()}"
        assert image["alt"]


def test_no_text_becomes_an_element(folder: Path) -> None:
    elements = Elements(folder / "index.html")
    assert len(elements.all("script")) == 1
    assert elements.text.count(HOSTILE) == 8  # title twice, verdict, fact, sentence, class, file name, caption
    for name in NAMES:
        assert name in elements.text


def test_every_file_that_the_markdown_links_is_there_and_nothing_else(folder: Path) -> None:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"index.html", "report.md", "report.json", "plot.png", "pictures/strip-01-7.jpg"}
    text = (folder / "report.md").read_text("utf-8")
    assert "](plot.png)" in text and "](pictures/strip-01-7.jpg)" in text
    assert "<" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_in_its_cell_and_is_read_as_it_is(name: str) -> None:
    (_, _, line) = table_lines(Table([Column("class"), Column("AP", ".3f")], [(f" {name}\n ", 0.5)]))
    cells = line.replace("\\|", "/").strip("|").split("|")
    assert len(cells) == 2
    assert not any(sign in plain(name).replace(f"\\{sign}", "") for sign in "*`[]|<")


def test_numbers_stand_right_and_what_is_absent_reads_as_its_column_says() -> None:
    columns = [Column("class"), Column("AP", ".3f", absent="undefined"), Column("best")]
    table = Table(columns, [("a", 0.25, None), ("b", None, "x")])
    assert table_lines(table) == [
        "| class | AP | best |",
        "|---|---:|---|",
        "| a | 0.250 | – |",  # noqa: RUF001
        "| b | undefined | x |",
    ]


def test_a_report_replaces_its_own_files_and_no_others(tmp_path: Path) -> None:
    write_document(document(), tmp_path)
    mine = [tmp_path / "notes.txt", tmp_path / "pictures" / "mine.jpg", tmp_path / "pictures" / "strip-of-mine.jpg"]
    for path in mine:
        path.write_text("mine")
    write_document(document(sections=[], title="second"), tmp_path, plots_left=["plot.png"])
    assert all(path.read_text() == "mine" for path in mine)
    assert "second" in (tmp_path / "index.html").read_text("utf-8")
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["mine.jpg", "strip-of-mine.jpg"]
    assert not (tmp_path / "plot.png").exists()


@pytest.fixture
def opened(browser: Any, folder: Path) -> Any:
    browser.get((folder / "index.html").as_uri())
    return browser


def _order(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('table tbody tr')].map((row) => row.cells[0].textContent.trim())"
    order: list[str] = browser.execute_script(script)
    return order


def test_a_browser_shows_everything_asks_for_nothing_and_sorts(opened: Any, folder: Path) -> None:
    assert opened.title == f"Report {HOSTILE}"
    assert opened.execute_script("return [...document.images].every((image) => image.naturalWidth > 0)")
    assert opened.get_log("browser") == []
    asked = requested(opened)
    assert asked
    assert all(url == (folder / "index.html").as_uri() or url.startswith("data:") for url in asked)
    assert _order(opened) == list(NAMES)
    opened.find_element("xpath", "//th/button[text()='AP']").click()
    assert _order(opened) == [NAMES[4], NAMES[3], NAMES[1], NAMES[0], NAMES[2]]  # an undefined AP comes last
    opened.find_element("xpath", "//th/button[text()='class']").click()
    assert _order(opened) == sorted(NAMES, key=lambda name: _order(opened).index(name))
    assert set(_order(opened)) == set(NAMES)


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_no_wider_than_the_screen_and_legible_in_either_scheme(
    opened: Any, width: int, scheme: str
) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        style = "return getComputedStyle(document.body)"
        ground, text = (_brightness(opened.execute_script(f"{style}.{name}")) for name in ("backgroundColor", "color"))
        assert (ground > 200 and text < 60) if scheme == "light" else (ground < 60 and text > 200)
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def _brightness(color: str) -> float:
    """Mean of ``rgb(r, g, b)``."""
    parts = [float(part) for part in color.partition("(")[2].rstrip(")").split(",")[:3]]
    return sum(parts) / 3
