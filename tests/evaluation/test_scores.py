"""Precision, recall and F1 over scores, against a count by hand of every score."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from detheads.data import Dataset
from detheads.evaluation.scores import ScoreCurve, best_scores, score_curves
from tests.report.scenes import crowded, dataset, found

BOX, FAR = (10.0, 10.0, 60.0, 60.0), (120.0, 120.0, 180.0, 180.0)


def _iou(first: Sequence[float], second: Sequence[float], crowd: bool) -> float:
    """Of xyxy boxes; over the first one's area where the second is a crowd region."""
    sides = [min(first[2 + axis], second[2 + axis]) - max(first[axis], second[axis]) for axis in (0, 1)]
    inside = max(0.0, sides[0]) * max(0.0, sides[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return inside / (areas[0] if crowd else areas[0] + areas[1] - inside)


def _counted(known: Dataset, results: Sequence[Mapping[str, Any]], label: int) -> tuple[list[tuple[float, bool]], int]:
    """(score, right) of the detections of a class that count, and the number of its objects, box by box."""
    judged, objects = [], 0
    for image, own in zip(known.images, known.objects, strict=True):
        mine = own.labels == label
        boxes, crowd = own.boxes[mine], own.crowd[mine]
        objects += int((~crowd).sum())
        taken: set[int] = set()
        drawn = [r for r in results if (r["image_id"], r["category_id"]) == (image.id, known.categories[label].id)]
        for result in sorted(drawn, key=lambda result: -result["score"]):
            x, y, width, height = result["bbox"]
            overlaps = [_iou((x, y, x + width, y + height), box, bool(c)) for box, c in zip(boxes, crowd, strict=True)]
            free = [n for n in range(len(boxes)) if not crowd[n] and n not in taken and overlaps[n] >= 0.5]
            if free:
                taken.add(max(free, key=lambda n: overlaps[n]))
                judged.append((result["score"], True))
            elif not any(crowd[n] and overlaps[n] >= 0.5 for n in range(len(boxes))):
                judged.append((result["score"], False))
    return judged, objects


def _f1(judged: Sequence[tuple[float, bool]], objects: int, score: float) -> tuple[float | None, float, float]:
    kept = [right for value, right in judged if value >= score]
    return (sum(kept) / len(kept) if kept else None), sum(kept) / objects, 2 * sum(kept) / (len(kept) + objects)


@pytest.mark.parametrize("seed", range(4))
def test_curves_and_best_scores_are_those_of_counting_by_hand(seed: int) -> None:
    known, results = crowded(seed)
    curves = score_curves(known.coco_json(), results)
    assert list(curves.per_class) == [c.name for c in sorted(known.categories, key=lambda category: category.id)]
    by_class = {category.name: _counted(known, results, label) for label, category in enumerate(known.categories)}
    every = [entry for judged, _ in by_class.values() for entry in judged]
    pairs = [(curves.per_class[name], *counted) for name, counted in by_class.items()]
    for curve, judged, objects in [*pairs, (curves.together, every, sum(n for _, n in by_class.values()))]:
        tried = sorted({0.0, 1.1, *(score for score, _ in judged)})
        for score in tried:
            point = curve.at(score)
            assert (point.precision, point.recall, point.f1) == pytest.approx(_f1(judged, objects, score))
            assert point.detections == sum(value >= score for value, _ in judged)
        for recall in (0.1, 0.5, 0.9):
            reaching = [score for score in tried if objects and _f1(judged, objects, score)[1] >= recall]
            costs = curve.at_recall(len(known.images), recall)
            assert costs.score == max(reaching, default=None)
            if reaching:
                precision = _f1(judged, objects, max(reaching))[0]
                wrong = sum(value >= max(reaching) and not right for value, right in judged)
                assert (costs.precision, costs.false_detections) == (precision, wrong / len(known.images))
        best = curve.best
        assert (best is None) == (not any(right for _, right in judged))
        if best is None:
            continue
        values = {score: _f1(judged, objects, score)[2] for score in tried}
        assert best.f1 == pytest.approx(max(values.values()))
        assert (best.precision, best.recall, best.f1) == pytest.approx(_f1(judged, objects, best.score))
    assert best_scores(known.coco_json(), results) == {n: c.best.score for n, c in curves.per_class.items() if c.best}


def test_the_best_score_lies_halfway_below_the_last_detection_kept_and_is_the_highest_of_equals() -> None:
    right = np.array([True, False, True, False])
    curve = ScoreCurve.of(np.array([0.9, 0.8, 0.4, 0.2]), right, 2)
    assert curve.best is not None
    assert (curve.best.score, curve.best.f1) == (pytest.approx(0.3), pytest.approx(0.8))  # 2 of 3 right, all found
    alone = ScoreCurve.of(np.array([0.5]), np.array([True]), 1).best
    assert alone is not None and alone.score == 0.25
    equal = ScoreCurve.of(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, False, True]), 1).best
    assert equal is not None and equal.score == pytest.approx(0.85)


def test_half_of_the_objects_is_found_at_exactly_half_and_what_never_finds_them_has_no_such_score() -> None:
    right = np.array([False, True, False, True, False])
    curve = ScoreCurve.of(np.array([0.9, 0.8, 0.8, 0.4, 0.2]), right, 4)
    found_at = curve.at_recall(3)  # the second hit, with the two mistakes before it
    assert (found_at.score, found_at.precision, found_at.false_detections) == (0.4, 0.5, pytest.approx(2 / 3))
    assert "(from score 0.4000 on) the precision is 0.500, with 0.67 false detections an image" in found_at.told()
    for never in (
        ScoreCurve.of(np.array([0.9]), np.array([True]), 3),
        ScoreCurve.of(np.zeros(0), np.zeros(0, bool), 0),
    ):
        assert never.at_recall(3).false_detections is None
        assert "recall of 0.5 is not reached" in never.at_recall(3).told()


def test_classes_without_objects_or_without_a_hit_have_no_best_score() -> None:
    known = dataset([[(0, BOX), (1, FAR)]], classes=3)
    results = [found(known, 0, 0, BOX, 0.8), found(known, 0, 1, BOX, 0.7), found(known, 0, 2, BOX, 0.6)]
    curves = score_curves(known.coco_json(), results)
    assert curves.best_scores == {"class 0": pytest.approx(0.4)}
    answer = curves.to_dict()
    assert answer["per_class"]["class 1"] is None and answer["per_class"]["class 2"] is None
    bare = score_curves(dataset([[]]).coco_json(), [])
    assert bare.to_dict()["best"] is None and bare.together.at(0.5).f1 is None
