import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from detheads.evaluation.coco import NAMES, Evaluator, evaluate
from detheads.foundation.errors import UserError

EVALUATORS: tuple[Evaluator, ...] = ("pycocotools", "hotcoco")

NO_CROWD = {
    "AP": 0.503647,
    "AP50": 0.696973,
    "AP75": 0.571667,
    "APs": 0.593252,
    "APm": 0.557991,
    "APl": 0.489363,
    "AR1": 0.386813,
    "AR10": 0.593680,
    "AR100": 0.595353,
}
"""The figures published with the no-crowd variant."""


def published_box_table(path: Path) -> list[float]:
    """The twelve figures of the box section of pycocotools' published output."""
    section = path.read_text().split("type=bbox")[1].split("type=")[0]
    return [float(value) for value in re.findall(r"\] = (-?[\d.]+)", section)]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(params=EVALUATORS)
def evaluator(request: pytest.FixtureRequest) -> Evaluator:
    if request.param == "hotcoco":
        pytest.importorskip("hotcoco")
    return request.param


def ground_truth() -> dict[str, Any]:
    """Two images, ids and classes with gaps, only the fields that have no substitute."""
    return {
        "images": [{"id": 7, "width": 200, "height": 200}, {"id": 3, "width": 200, "height": 200}],
        "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}, {"id": 5, "name": "eel"}],
        "annotations": [
            {"image_id": 7, "category_id": 4, "bbox": [10, 10, 50, 50]},
            {"image_id": 7, "category_id": 9, "bbox": [80, 80, 100, 100]},
            {"image_id": 3, "category_id": 4, "bbox": [0, 0, 20, 20]},
        ],
    }


def perfect(truth: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {**{key: entry[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9}
        for entry in truth["annotations"]
    ]


def test_the_published_table_of_100_val2014_images_is_reproduced(conformance: Path, evaluator: Evaluator) -> None:
    statistics = evaluate(
        read(conformance / "instances_val2014_100.json"),
        read(conformance / "instances_val2014_fakebbox100_results.json"),
        evaluator,
    )
    found = [round(getattr(statistics, name), 3) for name in NAMES]
    assert found == published_box_table(conformance / "val2014_fake_eval_res.txt")


def test_the_published_figures_without_crowds_are_reproduced(conformance: Path, evaluator: Evaluator) -> None:
    folder = conformance / "no_crowd"
    statistics = evaluate(read(folder / "sampled_gts_bbox_area.json"), read(folder / "cocoapi_results.json"), evaluator)
    assert {name: round(getattr(statistics, name), 6) for name in NO_CROWD} == NO_CROWD


def test_hotcoco_equals_pycocotools_in_every_figure(conformance: Path) -> None:
    pytest.importorskip("hotcoco")
    truth = read(conformance / "instances_val2014_100.json")
    results = read(conformance / "instances_val2014_fakebbox100_results.json")
    first, second = (evaluate(truth, results, evaluator).to_dict() for evaluator in EVALUATORS)
    per_class = first.pop("per_class"), second.pop("per_class")
    assert first == pytest.approx(second, abs=1e-12)
    assert list(per_class[0]) == list(per_class[1])
    for name, values in per_class[0].items():
        assert values == pytest.approx(per_class[1][name], abs=1e-12)


def test_ap_is_the_mean_of_the_defined_class_aps(conformance: Path) -> None:
    statistics = evaluate(
        read(conformance / "instances_val2014_100.json"),
        read(conformance / "instances_val2014_fakebbox100_results.json"),
    )
    defined = [value for value in statistics.per_class.values() if value.AP is not None]
    assert 1 < len(defined) < len(statistics.per_class)
    for name in ("AP", "AP50"):
        assert sum(getattr(value, name) for value in defined) / len(defined) == pytest.approx(getattr(statistics, name))


def test_perfect_detections_score_one_and_what_no_object_defines_is_none(evaluator: Evaluator) -> None:
    statistics = evaluate(ground_truth(), perfect(ground_truth()), evaluator).to_dict()
    per_class = statistics.pop("per_class")
    assert statistics == pytest.approx(dict.fromkeys(NAMES, 1.0))
    assert per_class["eel"] == {"AP": None, "AP50": None}


def test_class_figures_go_to_the_right_class(evaluator: Evaluator) -> None:
    truth = ground_truth()
    dogs_only = [entry for entry in perfect(truth) if entry["category_id"] == 4]
    per_class = evaluate(truth, dogs_only, evaluator).per_class
    assert list(per_class) == ["dog", "eel", "cat"]  # by id
    assert [value.AP for value in per_class.values()] == [pytest.approx(1.0), None, 0.0]


def test_no_detection_at_all_scores_zero(evaluator: Evaluator) -> None:
    statistics = evaluate(ground_truth(), [], evaluator)
    assert [getattr(statistics, name) for name in NAMES] == [0.0] * 12


def test_ground_truth_without_objects_defines_nothing(evaluator: Evaluator) -> None:
    truth = {**ground_truth(), "annotations": []}
    statistics = evaluate(truth, perfect(ground_truth()), evaluator)
    assert [getattr(statistics, name) for name in NAMES] == [None] * 12
    with pytest.raises(UserError, match="undefined"):
        statistics.require_ap()


def test_a_missing_area_is_the_boxs(evaluator: Evaluator) -> None:
    truth = ground_truth()
    truth["annotations"] = truth["annotations"][:1]  # 50 x 50 is medium
    statistics = evaluate(truth, perfect(truth), evaluator)
    assert (statistics.APs, statistics.APm, statistics.APl) == (None, pytest.approx(1.0), None)


def test_an_object_with_id_0_counts(evaluator: Evaluator) -> None:
    truth = ground_truth()
    for number, entry in enumerate(truth["annotations"]):
        entry["id"] = number
    average_precision = evaluate(truth, perfect(truth), evaluator).AP
    assert average_precision == pytest.approx(1.0)


def test_detections_in_a_crowd_are_no_errors(evaluator: Evaluator) -> None:
    truth = ground_truth()
    truth["annotations"].append({"image_id": 7, "category_id": 4, "bbox": [100, 0, 100, 100], "iscrowd": 1})
    inside = {"image_id": 7, "category_id": 4, "bbox": [120, 20, 30, 30], "score": 0.99}
    results = [*perfect(ground_truth()), inside]
    with_crowd = evaluate(truth, results, evaluator).AP
    without_crowd = evaluate(ground_truth(), results, evaluator).AP
    assert with_crowd == pytest.approx(1.0)
    assert without_crowd is not None and without_crowd < 0.9


def test_the_callers_objects_are_unchanged_and_nothing_is_printed(
    evaluator: Evaluator, capfd: pytest.CaptureFixture[str]
) -> None:
    truth, results = ground_truth(), perfect(ground_truth())
    before = copy.deepcopy((truth, results))
    evaluate(truth, results, evaluator)
    assert (truth, results) == before
    assert capfd.readouterr() == ("", "")


def test_classes_that_share_a_name_keep_their_own_rows() -> None:
    truth = ground_truth()
    truth["categories"][0]["name"] = "dog"
    assert list(evaluate(truth, perfect(truth)).per_class) == ["dog (4)", "eel", "dog (9)"]


@pytest.mark.parametrize(("key", "value"), [("image_id", 99), ("category_id", 1)])
@pytest.mark.parametrize("kind", ["annotation", "detection"])
def test_an_id_that_the_ground_truth_does_not_list_is_refused(kind: str, key: str, value: int) -> None:
    truth = ground_truth()
    results = perfect(truth)
    (truth["annotations"] if kind == "annotation" else results)[0][key] = value
    with pytest.raises(UserError, match=f"lists no {key} {value} that a {kind}"):
        evaluate(truth, results)


@pytest.mark.parametrize(
    ("evaluator", "module", "extra"),
    [("hotcoco", "hotcoco", "hotcoco"), ("pycocotools", "pycocotools.coco", "train")],
)
def test_a_missing_evaluator_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, evaluator: Evaluator, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'detheads\[{extra}\]'"):
        evaluate(ground_truth(), [], evaluator)
