"""What was found, in the forms in which others take it."""

import json
import sys

import numpy as np
import pytest

from detheads.deploy import Detections
from detheads.foundation.coco_results import require_results
from detheads.foundation.errors import UserError

FOUND = Detections(
    boxes=np.array([[10, 20, 40.5, 60], [0, 0, 8, 6]], np.float64),
    scores=np.array([0.75, 0.25], np.float32),
    labels=np.array([1, 0], np.int32),
    names=("owl", "cat"),
    full=True,
)
NOTHING = Detections(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int32))


def test_as_json() -> None:
    assert json.loads(json.dumps(FOUND.to_dict())) == {
        "detections": [
            {"name": "owl", "label": 1, "score": 0.75, "box": [10, 20, 40.5, 60]},
            {"name": "cat", "label": 0, "score": 0.25, "box": [0, 0, 8, 6]},
        ],
        "full": True,
    }
    assert NOTHING.to_dict() == {"detections": [], "full": False}


def test_as_coco_results() -> None:
    entries = FOUND.to_coco(7, [17, 90])
    require_results(entries, "here")
    assert entries == [
        {"image_id": 7, "category_id": 90, "bbox": [10, 20, 30.5, 40], "score": 0.75},
        {"image_id": 7, "category_id": 17, "bbox": [0, 0, 8, 6], "score": 0.25},
    ]
    assert NOTHING.to_coco(7, [17, 90]) == []


@pytest.mark.parametrize("found", [FOUND, NOTHING], ids=["two", "none"])
def test_as_supervision_takes_them(found: Detections) -> None:
    supervision = pytest.importorskip("supervision")
    taken = found.to_supervision()
    np.testing.assert_array_equal(taken.xyxy, found.boxes)
    np.testing.assert_array_equal(taken.confidence, found.scores)
    np.testing.assert_array_equal(taken.class_id, found.labels)
    assert taken["class_name"].tolist() == list(found.names)
    assert len(taken[taken.confidence > 0.5]) == (found.scores > 0.5).sum()
    together = supervision.Detections.merge([taken, taken])
    assert len(together) == 2 * len(found)


def test_supervision_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="install it with: pip install supervision"):
        FOUND.to_supervision()
