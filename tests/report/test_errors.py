"""Errors by kind, against scenes worked out by hand and against slow loops; AP against pycocotools."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from detheads.data import Dataset
from detheads.evaluation.coco import evaluate, judge_at
from detheads.report.errors import WRONG, Errors, Kind, find_errors
from tests.report.scenes import Box, corners, crowded, dataset, found, iou

A: Box = (10, 10, 50, 50)
"""An object; below, boxes of known IoU with it."""
A_060: Box = (10, 10, 50, 34)
A_050: Box = (10, 10, 50, 30)
A_025: Box = (10, 10, 50, 20)
A_010: Box = (10, 10, 50, 14)
A_005: Box = (10, 10, 50, 12)
B: Box = (100, 100, 140, 140)
NOWHERE: Box = (150, 10, 190, 50)


def errors_of(known: Dataset, results: Sequence[Mapping[str, Any]]) -> Errors:
    return find_errors(judge_at(known.coco_json(), results, (0.5,)), known)


@pytest.mark.parametrize(
    ("label", "box", "kind"),
    [
        (0, A, Kind.FOUND),
        (0, A_050, Kind.FOUND),
        (0, A_025, Kind.MISPLACED),
        (0, A_010, Kind.MISPLACED),
        (0, A_005, Kind.BACKGROUND),
        (1, A, Kind.CONFUSED),
        (1, A_050, Kind.CONFUSED),
        (1, A_025, Kind.BOTH),
        (1, A_010, Kind.BOTH),
        (1, A_005, Kind.BACKGROUND),
        (0, NOWHERE, Kind.BACKGROUND),
    ],
)
def test_one_detection_beside_one_object_is_of_the_kind_that_its_class_and_overlap_say(
    label: int, box: Box, kind: Kind
) -> None:
    known = dataset([[(0, A)]])
    errors = errors_of(known, [found(known, 0, label, box, 0.5)])
    assert errors.kind.tolist() == [kind]
    assert errors.about.tolist() == [-1 if kind is Kind.BACKGROUND else 0]
    meant = kind in (Kind.FOUND, Kind.MISPLACED, Kind.CONFUSED)
    assert errors.counts()[Kind.MISSED] == (0 if meant else 1)


def test_the_second_detection_of_an_object_is_a_duplicate_whatever_its_overlap() -> None:
    known = dataset([[(0, A)]])
    errors = errors_of(known, [found(known, 0, 0, A, 0.4), found(known, 0, 0, A_060, 0.9)])
    assert dict(zip(errors.score.tolist(), errors.kind.tolist(), strict=True)) == {
        0.9: Kind.FOUND,
        0.4: Kind.DUPLICATE,
    }


def test_a_detection_inside_a_crowd_of_its_class_is_no_error_and_the_crowd_no_object() -> None:
    known = dataset([[(0, (0, 0, 100, 100)), (0, B)]], crowds=[0])
    inside: Box = (20, 20, 60, 60)
    errors = errors_of(known, [found(known, 0, 0, inside, 0.9), found(known, 0, 1, inside, 0.8)])
    assert errors.kind.tolist() == [Kind.BACKGROUND]
    assert errors.object_boxes.tolist() == [list(B)]


def test_without_detections_every_object_is_missed_and_without_objects_everything_is_background() -> None:
    known = dataset([[(0, A), (1, B)], []])
    nothing = errors_of(known, [])
    assert nothing.counts() == {**dict.fromkeys(Kind, 0), Kind.MISSED: 2}
    assert nothing.cost(Kind.MISSED) == 1.0
    bare = dataset([[], []])
    wrong = errors_of(bare, [found(bare, 0, 0, A, 0.5), found(bare, 1, 1, B, 0.5)])
    assert wrong.counts() == {**dict.fromkeys(Kind, 0), Kind.BACKGROUND: 2}
    assert [wrong.cost(kind) for kind in WRONG] == [None] * len(WRONG)
    assert errors_of(bare, []).counts() == dict.fromkeys(Kind, 0)


def _by_loops(known: Dataset, results: Sequence[Mapping[str, Any]]) -> tuple[Counter[tuple[int, float, Kind]], int]:
    """Kinds as (image id, score, kind), and the objects missed, from the definitions one by one."""
    counted: Counter[tuple[int, float, Kind]] = Counter()
    missed = 0
    for index, image in enumerate(known.images):
        own = known.objects[index]
        objects = [
            (int(label), box) for label, box, crowd in zip(own.labels, own.boxes, own.crowd, strict=True) if not crowd
        ]
        crowds = [
            (int(label), box) for label, box, crowd in zip(own.labels, own.boxes, own.crowd, strict=True) if crowd
        ]
        ids = [category.id for category in known.categories]
        drawn = [
            (ids.index(result["category_id"]), corners(result), result["score"])
            for result in results
            if result["image_id"] == image.id
        ]
        free, explained = set(range(len(objects))), set()
        wrong = []
        for label, box, score in sorted(drawn, key=lambda detection: -detection[2]):
            best = max(
                (number for number in free if objects[number][0] == label),
                key=lambda number: iou(box, objects[number][1]),
                default=None,
            )
            if best is not None and iou(box, objects[best][1]) >= 0.5:
                free.remove(best)
                counted[image.id, score, Kind.FOUND] += 1
            elif not any(label == of and _share(box, region) >= 0.5 for of, region in crowds):
                wrong.append((label, box, score))
        for label, box, score in wrong:
            near = [(iou(box, shape), of == label, number) for number, (of, shape) in enumerate(objects)]
            mine = max((each for each in near if each[1]), default=(0.0, True, -1))
            other = max((each for each in near if not each[1]), default=(0.0, False, -1))
            if 0.1 <= mine[0] < 0.5:
                kind = Kind.MISPLACED
                explained.add(mine[2])
            elif other[0] >= 0.5:
                kind = Kind.CONFUSED
                explained.add(other[2])
            elif mine[0] >= 0.5:
                kind = Kind.DUPLICATE
            else:
                kind = Kind.BACKGROUND if other[0] < 0.1 else Kind.BOTH
            counted[image.id, score, kind] += 1
        missed += len(free - explained)
    return counted, missed


def _share(box: Sequence[float], region: Sequence[float]) -> float:
    """How much of a box lies in a crowd region."""
    width = min(box[2], region[2]) - max(box[0], region[0])
    height = min(box[3], region[3]) - max(box[1], region[1])
    return max(0.0, width) * max(0.0, height) / ((box[2] - box[0]) * (box[3] - box[1]))


@pytest.mark.parametrize("seed", range(8))
def test_kinds_are_those_of_loops_over_detections_and_objects(seed: int) -> None:
    known, results = crowded(seed)
    errors = errors_of(known, results)
    ids = [image.id for image in known.images]
    kinds = Counter(
        (ids[image], score, Kind(kind))
        for image, score, kind in zip(errors.image, errors.score.tolist(), errors.kind, strict=True)
    )
    counted, missed = _by_loops(known, results)
    assert kinds == counted
    assert errors.counts()[Kind.MISSED] == missed
    assert len({kind for *_, kind in counted}) >= 5  # the scenes are rich enough


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("score", [0.35, 0.75])
def test_counts_from_a_score_on_are_those_of_the_better_detections_alone(seed: int, score: float) -> None:
    known, results = crowded(seed)
    better = [result for result in results if result["score"] >= score]
    assert errors_of(known, results).counts(score) == errors_of(known, better).counts()


@pytest.mark.parametrize("seed", range(8))
def test_average_precisions_without_repairs_are_those_of_pycocotools(seed: int) -> None:
    known, results = crowded(seed, images=12)
    expected = [value.AP50 for value in evaluate(known.coco_json(), results).per_class.values()]
    measured = errors_of(known, results).average_precisions()[::-1]  # by category id, which fall with the label
    np.testing.assert_allclose(np.nan_to_num(measured, nan=-1.0), expected, atol=1e-12)


def _repaired(known: Dataset, results: list[dict[str, Any]], errors: Errors, kind: Kind) -> list[dict[str, Any]]:
    """The results with each detection of a kind changed by hand."""
    objects = errors.object_boxes.tolist()
    changed = []
    for row in range(len(errors.kind)):
        if errors.kind[row] != kind:
            box = tuple(errors.boxes[row].tolist())
            changed.append(found(known, int(errors.image[row]), int(errors.label[row]), box, float(errors.score[row])))
    taken = set(errors.about[errors.kind == Kind.FOUND].tolist())
    if kind in (Kind.MISPLACED, Kind.CONFUSED):
        for row in np.argsort(-errors.score, kind="stable"):
            about = int(errors.about[row])
            if errors.kind[row] == kind and about not in taken:
                taken.add(about)
                image, label = int(errors.object_image[about]), int(errors.object_label[about])
                changed.append(found(known, image, label, tuple(objects[about]), float(errors.score[row])))
    return changed


@pytest.mark.parametrize("kind", [Kind.MISPLACED, Kind.CONFUSED, Kind.BOTH, Kind.DUPLICATE, Kind.BACKGROUND])
def test_a_repair_gains_what_pycocotools_gives_the_repaired_detections(kind: Kind) -> None:
    gains = []
    for seed in range(6):
        known, results = crowded(seed, images=8)
        errors = errors_of(known, results)
        before, after = (
            evaluate(known.coco_json(), given).AP50 for given in (results, _repaired(known, results, errors, kind))
        )
        cost = errors.cost(kind)
        # The changed detections stand elsewhere among those of equal scores.
        assert cost == pytest.approx(after - before, abs=0.02 if kind in (Kind.MISPLACED, Kind.CONFUSED) else 1e-9)
        gains.append(cost)
    assert max(gains) > 0.01


def test_the_repair_of_missed_objects_takes_them_out_of_the_count() -> None:
    known = dataset([[(0, A), (0, B)]], classes=1)
    results = [found(known, 0, 0, A, 0.9), found(known, 0, 0, NOWHERE, 0.8)]
    errors = errors_of(known, results)
    before = evaluate(known.coco_json(), results).AP50
    assert before == pytest.approx(51 / 101)
    assert errors.cost(Kind.MISSED) == pytest.approx(1 - before)
    assert errors.cost(Kind.BACKGROUND) == pytest.approx(0)  # it stands behind the one that is right
