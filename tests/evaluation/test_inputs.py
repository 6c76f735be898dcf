"""Annotations and detections of any origin: values or files, and a sentence for each mistake."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detheads.evaluation.coco import evaluate
from detheads.evaluation.inputs import named_images, suspicions
from detheads.foundation.errors import UserError
from tests.report.scenes import crowded

Change = Callable[[dict[str, Any], list[dict[str, Any]]], Any]


def test_files_mappings_and_strings_give_the_same_statistics(tmp_path: Path) -> None:
    known, results = crowded(3)
    truth = known.coco_json()
    first, second = tmp_path / "truth.json", tmp_path / "results.json"
    first.write_text(json.dumps(truth))
    second.write_text("\ufeff" + json.dumps(results), encoding="utf-8")
    expected = evaluate(truth, results)
    assert evaluate(first, second) == evaluate(str(first), str(second)) == evaluate(truth, second) == expected
    numbers = [
        entry | {"bbox": np.array(entry["bbox"]), "score": np.float64(entry["score"]), "image_id": np.int64(e)}
        for entry, e in ((entry, entry["image_id"]) for entry in results)
    ]
    assert evaluate(truth, numbers) == expected


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda truth, results: results[0].pop("score"), "detection 0 has no 'score', so it is an annotation"),
        (lambda truth, results: results[1].update(score=float("nan")), "detection 1 has no finite number as 'score'"),
        (lambda truth, results: results[0].update(bbox=[1, 2, 3]), "detection 0 has no 'bbox' of four"),
        (lambda truth, results: results[0].update(bbox="1234"), "detection 0 has no 'bbox' of four"),
        (lambda truth, results: results[0].update(bbox=[9, 9, -3, 4]), "negative width or height"),
        (lambda truth, results: results[0].pop("category_id"), "detection 0 has no integer 'category_id'"),
        (lambda truth, results: results[0].update(image_id="a.jpg"), "detection 0 has no integer 'image_id'"),
        (lambda truth, results: results.insert(0, None), "detection 0 is not an object"),
        (lambda truth, results: truth.pop("images"), "the ground truth has no list 'images'"),
        (lambda truth, results: truth["categories"][0].pop("name"), "entry 0 of 'categories' has no 'name'"),
        (lambda truth, results: truth["images"][1].pop("id"), "entry 1 of 'images' has no 'id'"),
        (lambda truth, results: truth["images"].append(truth["images"][0]), "lists the id 500 twice among its images"),
        (lambda truth, results: truth["annotations"][2].pop("bbox"), "annotation 2 has no 'bbox'"),
        (lambda truth, results: truth["categories"].clear(), "its categories have no id"),
    ],
)
def test_what_lacks_something_is_refused_in_a_sentence(change: Change, sentence: str) -> None:
    known, results = crowded(3)
    truth = known.coco_json()
    change(truth, results)
    with pytest.raises(UserError, match=sentence):
        evaluate(truth, results)


def test_the_wrong_things_are_called_what_they_are(tmp_path: Path) -> None:
    known, results = crowded(3)
    annotations = tmp_path / "truth.json"
    annotations.write_text(json.dumps(known.coco_json()))
    with pytest.raises(UserError, match="holds no list of detections; give a COCO result file"):
        evaluate(annotations, annotations)
    with pytest.raises(UserError, match="is a folder; give its COCO annotation file"):
        evaluate(tmp_path, results)
    with pytest.raises(UserError, match=r"gone\.json does not exist"):
        evaluate(annotations, tmp_path / "gone.json")
    with pytest.raises(UserError, match="one object, not a list"):
        evaluate(annotations, {"image_id": 1})  # type: ignore[arg-type]


def test_classes_that_count_from_the_other_end_are_suspected() -> None:
    known, results = crowded(3)
    truth = known.coco_json()
    numbers = {category["id"]: place for place, category in enumerate(truth["categories"], start=1)}
    for entry in [*truth["annotations"], *results]:
        entry["category_id"] = numbers[entry["category_id"]]
    for category in truth["categories"]:
        category["id"] = numbers[category["id"]]
    shifted = [entry | {"category_id": entry["category_id"] - 1} for entry in results]
    with pytest.raises(UserError, match="add 1 to each category_id"):
        evaluate(truth, shifted)


def test_boxes_that_mean_something_else_are_remarked_on() -> None:
    known, results = crowded(3)
    truth = known.coco_json()
    assert suspicions(truth, results) == []

    def with_boxes(change: Callable[[float, float, float, float], list[float]]) -> list[dict[str, Any]]:
        return [entry | {"bbox": change(*entry["bbox"])} for entry in results]

    (corners,) = suspicions(
        truth, with_boxes(lambda x, y, w, h: [max(x, 0), max(y, 0), min(x + w, 200), min(y + h, 200)])
    )
    assert "x1, y1, x2, y2" in corners
    (shares,) = suspicions(truth, with_boxes(lambda x, y, w, h: [x / 200, y / 200, w / 200, h / 200]))
    assert "shares of the picture" in shares
    (scaled,) = suspicions(truth, with_boxes(lambda x, y, w, h: [4 * x, 4 * y, 4 * w, 4 * h]))
    assert "pixels of another size" in scaled
    (few,) = suspicions(truth, [entry for entry in results if entry["image_id"] == results[0]["image_id"]])
    assert "no detection at all" in few


def test_file_names_in_place_of_image_ids_are_followed() -> None:
    known, results = crowded(3)
    truth = known.coco_json()
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    for name in (str, lambda text: Path(text).stem):
        named = [entry | {"image_id": name(names[entry["image_id"]])} for entry in results]
        assert named_images(named, truth) == results
    assert named_images([{"image_id": "other"}], truth) == [{"image_id": "other"}]
