"""What the page adds to a report: how many objects of each size are found."""

from pathlib import Path

import numpy as np

from detheads.data import Category, Dataset, ImageRecord, Objects
from detheads.evaluation.coco import evaluate
from detheads.make.page import sizes_section
from detheads.report.measured import measure


def test_objects_are_counted_by_their_size_in_the_models_input() -> None:
    boxes = np.array([[0.0, 0, 20, 20], [100, 100, 120, 120], [200, 200, 400, 400]])  # 10, 10 and 100 pixels in it
    objects = Objects(boxes, np.zeros(3, np.int64), np.zeros(3, bool), np.array([400.0, 400, 40000]))
    dataset = Dataset(
        "toy", "val", (Category(1, "thing"),), (ImageRecord(1, "a.jpg", Path("a.jpg"), 640, 640),), (objects,)
    )
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [100, 100, 20, 20], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [200, 200, 200, 200], "score": 0.8},
    ]
    measured = measure(dataset, found, evaluate(dataset.coco_json(), found))
    (table,) = sizes_section(measured, (320, 320)).tables
    rows = {row[0]: tuple(row[1:]) for row in table.rows}
    assert rows["under 16"] == (2, 1, 0.5)
    assert rows["64 to 128"] == (1, 1, 1.0)
    assert rows["128 and more"] == (0, 0, None)
