"""Failures one by one: what was detected falsely, what was missed, and their pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detheads.data import Dataset
from detheads.evaluation.coco import evaluate
from detheads.report import failures as module
from detheads.report.failures import false_detections, missed_objects, write_failures
from detheads.report.measured import Measured, measure
from tests.report.scenes import SIDE, crowded, dataset, found

A, B, FAR = (10.0, 10.0, 60.0, 60.0), (100.0, 20.0, 180.0, 100.0), (20.0, 120.0, 60.0, 160.0)


def _measured(known: Dataset, results: list[dict[str, object]]) -> Measured:
    return measure(known, results, evaluate(known.coco_json(), results))


@pytest.mark.parametrize("seed", range(3))
def test_every_false_detection_and_missed_object_is_listed_in_order(seed: int) -> None:
    measured = _measured(*crowded(seed))
    false, missed = false_detections(measured), missed_objects(measured)
    counts = measured.errors.counts()
    assert len(false) == sum(count for kind, count in counts.items() if kind.label not in ("found", "missed"))
    scores = [each.score or 0 for each in false]
    assert scores == sorted(scores, reverse=True) and scores
    assert len(missed) == measured.errors.counts(measured.score)[module.Kind.MISSED]
    areas = [(each.box[2] - each.box[0]) * (each.box[3] - each.box[1]) for each in missed]
    assert areas == sorted(areas, reverse=True)


def test_pictures_of_failures_have_safe_names_and_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dataset([[(0, A), (1, B)], [(1, FAR)]])
    named = [replace(c, name=name) for c, name in zip(known.categories, ("a/b", "[x]"), strict=True)]
    known = replace(known, categories=tuple(named))
    results = [
        found(known, 0, 0, A, 0.9),
        found(known, 0, 0, B, 0.8),  # confused
        found(known, 1, 0, A, 0.95),  # background
    ]
    paths = {}
    for index in range(2):
        paths[index] = tmp_path / f"{index}.png"
        Image.fromarray(np.full((SIDE, SIDE, 3), 200, np.uint8)).save(paths[index])
    monkeypatch.setattr(module, "image_paths", lambda dataset, chosen, data: paths)
    measured = _measured(known, results)
    written = write_failures(measured, tmp_path, tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "failures.json").read_text("utf-8"))
    assert [(each["kind"], each["name"], each["score"], each["box"]) for each in listed] == [
        ("background", "a/b", 0.95, list(A)),
        ("confused", "a/b", 0.8, list(B)),
        ("missed", "[x]", None, list(B)),  # from the working score on, which is above 0.8
        ("missed", "[x]", None, list(FAR)),
    ]
    assert listed[1]["means"] == "[x]" and listed[1]["image"] == "0.png"
    assert sorted(written) == sorted(path.name for path in (tmp_path / "out").glob("*.jpg"))
    assert all(not set(name) & set('/\\:*?"<>|') for name in written)
    with Image.open(tmp_path / "out" / written[0]) as picture:
        assert picture.width > picture.height  # two panels side by side
