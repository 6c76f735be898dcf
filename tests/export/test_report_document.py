"""The proof for readers: what the page and the Markdown show, offline, whatever classes and files are called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data.dataset import Category, Dataset, ImageRecord, Objects
from detheads.deploy import Detections
from detheads.evaluation.coco import NAMES, ClassStatistics, Statistics
from detheads.evaluation.compare import Interval
from detheads.export.criteria import Criterion
from detheads.export.limits import Limits
from detheads.export.matching import Comparison, TensorDifference
from detheads.export.report import ArtefactResult, VerificationReport
from detheads.export.report_document import report_markdown, report_page
from detheads.export.report_pictures import scenes
from detheads.report.curves import CURVE_IOUS, PrecisionRecall
from tests.report.browser import Elements, browser, requested

__all__ = ["browser"]

HOSTILE = ("<b>x</b>", "a\u202eb", "$x_1$", "<script>document.title = 'taken over'</script>")
STEPS = [
    {"returned": 0, "layers": 20, "share": 1.0, "ap": 0.3, "passed": False, "reasons": ["too low"]},
    {"returned": 3, "layers": 15, "share": 0.75, "ap": 0.499, "passed": True, "reasons": []},
]


def found(*rows: tuple[float, ...]) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    array = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(array[:, :4], array[:, 4].astype(np.float32), array[:, 5].astype(np.int32))


def pictures(folder: Path) -> Dataset:
    records = []
    for number, color in enumerate(("teal", "olive", "navy")):
        path = folder / f"{number}.png"
        Image.new("RGB", (90, 60), color).save(path)
        records.append(ImageRecord(number + 1, f"<i>{number}</i>.png", path, 90, 60))
    categories = tuple(Category(number + 1, name) for number, name in enumerate(HOSTILE))
    return Dataset("data", "val", categories, tuple(records), (Objects.empty(),) * 3)


LIVE = [found((5, 5, 40, 40, 0.9, 0)), found((5, 5, 40, 40, 0.9, 1), (50, 5, 80, 40, 0.1, 2)), found()]
OTHER = [found((5, 5, 40, 41, 0.9, 0)), found((5, 5, 40, 40, 0.9, 1)), found()]


@dataclass(frozen=True)
class Told:
    """What an explanation gives."""

    sentences: Sequence[str] = ("departs in stage decode",)

    def told(self) -> Sequence[str]:
        return self.sentences

    def to_dict(self) -> dict[str, Any]:
        return {"causes": list(self.sentences)}


def report(folder: Path) -> VerificationReport:
    statistics = Statistics(
        **dict.fromkeys(NAMES, 0.5), per_class={name: ClassStatistics(0.5, 0.7) for name in HOSTILE}
    )
    curve = [PrecisionRecall(iou, np.linspace(0, 1, 101).tolist(), [0.5] * 101, 0.6) for iou in CURVE_IOUS]
    figures = [Criterion("AP", "AP", 0.5, 0.49, 900, 0.005, Interval(0.004, 0.02))]
    figures += [Criterion(name, "class", 0.5, 0.4 - n / 10, 60, 0.05, None, 30) for n, name in enumerate(HOSTILE)]
    artefact = ArtefactResult(
        "model.onnx", "onnxruntime", 1, replace(statistics, AP=0.49), 0.01, Comparison(3, 2, 1), Comparison(3, 2),
        figures, "int8", 1_250_000, 12.5,
    )  # fmt: skip
    return VerificationReport(
        bundle="model", head="head", date="2026-01-01", dataset="data", split="val", dataset_sha256="a" * 64, images=3,
        boxes=900, aspect_ratios=(1.5, 1.5), onnx_sha256="b" * 64, checkpoint_sha256="c" * 64, live_runtime="torch",
        map_cache=None, live=statistics, artefacts=[artefact, replace(artefact, batch=4)],
        tensors=TensorDifference(3), odd_shapes=Comparison(9, 5), engines=[], limits=Limits.of("int8"),
        precision="int8", licence="a licence", classes=HOSTILE, curves={"PyTorch": curve, "model.onnx": curve},
        scenes=scenes(pictures(folder), LIVE, OTHER, 2), conversion={"curve": STEPS}, explanation=Told(),
        shortcomings=["three images say little"], reasons=["the gate <b>refuses</b>"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> VerificationReport:
    return report(tmp_path_factory.mktemp("proof"))


@pytest.fixture(scope="module")
def page(proof: VerificationReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_page(proof), encoding="utf-8")
    return path


def test_the_page_needs_nothing_from_elsewhere_and_no_text_becomes_an_element(page: Path) -> None:
    elements = Elements(page)
    assert all(source is not None and source.startswith("data:") for source in elements.sources())
    kinds = [str(image["src"]).partition(";")[0] for image in elements.all("img")]
    assert kinds.count("data:image/svg+xml") == 4  # two curves, classes, INT8
    assert kinds.count("data:image/jpeg") == 4  # two pictures of two sides
    assert len(elements.all("script")) == 1 and not elements.all("b") and not elements.all("i")
    for name in (HOSTILE[0], r"a\u202eb", *HOSTILE[2:]):
        assert name in elements.text
    assert "\u202e" not in page.read_text("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "Verification of model: FAILED",
        "departs in stage decode",
        "three images say little",
        "+0.0040 to +0.0200",  # the interval
        "12.5",  # milliseconds
        "1.2",  # MB
        "a licence",
        "b" * 64,
        "75 %",  # of the layers in INT8
        "AP against the share of INT8 layers",
    ],
)
def test_page_and_markdown_tell_the_same(page: Path, proof: VerificationReport, text: str) -> None:
    assert text in Elements(page).text
    assert text in report_markdown(proof)


def test_artefacts_run_in_several_ways_are_told_apart_everywhere(proof: VerificationReport) -> None:
    (first, _), name = proof.artefacts, "openvino 2026.4 CPU"
    text = report_markdown(replace(proof, artefacts=[first, replace(first, runtime=name, further=True)]))
    assert "| run by |" in text
    assert f"| model.onnx | int8 | 1 | {name} |" in text
    assert f"| statistic | PyTorch | model.onnx at batch 1 | model.onnx in {name} at batch 1 |" in text


def test_the_markdown_is_one_line_a_row_and_escaped(proof: VerificationReport) -> None:
    text = report_markdown(proof)
    assert "&lt;b>x&lt;/b>" in text and "<b>" not in text and "\u202e" not in text
    assert "- the gate &lt;b>refuses&lt;/b>" in text
    widths = [line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| ")]
    assert min(widths) > 2


def test_json_has_every_criterion_and_what_the_explanation_found(proof: VerificationReport) -> None:
    values = proof.to_dict()
    assert values["explanation"] == {"causes": ["departs in stage decode"]}
    assert [each["name"] for each in values["artefacts"][0]["criteria"]] == ["AP", *HOSTILE]
    assert values["artefacts"][0]["map_drop_interval"] == [0.004, 0.02]
    assert values["artefacts"][0]["worst_class"] == HOSTILE[3]
    assert values["conclusive"] is False


def test_the_pictures_that_differ_most_come_first_with_what_one_side_lacks(proof: VerificationReport) -> None:
    first, second = proof.scenes
    assert [first.image.id, second.image.id] == [2, 1]
    left, right = first.drawings
    assert left.caption == "PyTorch: 2 boxes, 1 without a counterpart" and right.caption == "artefact: 1 box"
    assert len(left.boxes) == 2 and left.colors[0] != left.colors[1]  # the lone one is drawn whatever its score
    assert list(second.drawings[0].colors) == list(second.drawings[1].colors)


def test_a_real_browser_shows_the_verdict_and_asks_for_nothing_else(page: Path, browser: Any) -> None:
    browser.get("about:blank")
    requested(browser), browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.title == "Verification of model: FAILED"
    verdict = browser.find_element("css selector", ".verdict")
    assert verdict.is_displayed() and verdict.text.startswith("Proof FAILED")
    assert all(browser.execute_script("return [...document.images].map((image) => image.naturalWidth > 0)"))
    assert [url for url in requested(browser) if not url.startswith("data:")] == [page.as_uri()]
    assert browser.get_log("browser") == []
