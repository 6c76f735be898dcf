import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detheads.foundation.coco_results import read_results, to_coco_results
from detheads.foundation.errors import UserError

ENTRY = {"image_id": 3, "category_id": 18, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}


def test_detections_become_entries_with_the_datasets_own_ids_and_xywh() -> None:
    boxes = np.array([[10, 20, 40, 60], [0, 0, 5, 5]], np.float32)
    entries = to_coco_results(42, boxes, np.array([0.5, 0.25], np.float32), np.array([1, 0], np.int32), [7, 90])
    assert entries == [
        {"image_id": 42, "category_id": 90, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.5},
        {"image_id": 42, "category_id": 7, "bbox": [0.0, 0.0, 5.0, 5.0], "score": 0.25},
    ]
    assert json.loads(json.dumps(entries)) == entries


def test_unused_rows_are_left_out() -> None:
    assert to_coco_results(1, np.zeros((100, 4)), np.zeros(100), np.zeros(100, np.int32), [1]) == []


def test_a_result_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([ENTRY]))
    assert read_results(path) == [ENTRY]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "3"}, "no integer 'image_id'"),
        ({"category_id": True}, "no integer 'category_id'"),
        ({"score": None}, "no finite number as 'score'"),
        ({"score": float("nan")}, "no finite number as 'score'"),
        ({"bbox": [1, 2, 3]}, "no 'bbox' of four finite numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "no 'bbox' of four finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, "negative width"),
    ],
)
def test_a_faulty_entry_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([ENTRY, {**ENTRY, **change}]))
    with pytest.raises(UserError, match=f"results.json: detection 1 .*{message}"):
        read_results(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"images": []}', "no list of detections"), ("[3]", "detection 0 is not an object"), ("[", "not readable JSON")],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_results(path)
