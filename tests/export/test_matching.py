from dataclasses import dataclass

import numpy as np
import pytest

from detheads.export.matching import BEST_BOXES, Comparison, TensorDifference, match


@dataclass
class Boxes:
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def boxes(*rows: tuple[float, ...]) -> Boxes:
    """Rows of x1, y1, x2, y2, score, label."""
    array = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Boxes(array[:, :4], array[:, 4], array[:, 5].astype(int))


def test_same_boxes_in_any_order_match() -> None:
    first = boxes((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 1), (50, 50, 60, 70, 0.7, 0))
    second = boxes((50, 50, 60, 70, 0.7, 0), (0, 0, 10, 10, 0.8, 1), (0, 0, 10, 10.5, 0.9, 0))
    assert sorted(match(first, second)) == [(0, 2), (1, 1), (2, 0)]
    comparison = Comparison()
    comparison.add(first, second)
    assert comparison.share == 1
    assert comparison.box_difference == 0.5


def test_other_class_or_place_does_not_match() -> None:
    comparison = Comparison()
    comparison.add(boxes((0, 0, 10, 10, 0.9, 0)), boxes((0, 0, 10, 10, 0.9, 1)))
    comparison.add(boxes((0, 0, 10, 10, 0.9, 0)), boxes((4, 0, 14, 10, 0.9, 0)))
    assert (comparison.matched, comparison.only_first, comparison.only_second) == (0, 2, 2)
    assert comparison.share == 0


def test_each_box_is_used_once() -> None:
    twice = boxes((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.9, 0))
    assert len(match(twice, boxes((0, 0, 10, 10, 0.9, 0)))) == 1
    assert len(match(twice, twice)) == 2


def test_boxes_without_area_match_themselves() -> None:
    flat = boxes((5, 5, 5, 9, 0.3, 2))
    assert match(flat, flat) == [(0, 0)]


def test_nothing_on_both_sides_is_agreement_and_on_one_is_not() -> None:
    comparison = Comparison()
    comparison.add(boxes(), boxes())
    assert comparison.share == 1
    comparison.add(boxes(), boxes((0, 0, 1, 1, 0.5, 0)))
    assert comparison.share == 0


def test_tensor_differences_tell_likely_boxes_from_the_others() -> None:
    some = np.tile(np.array([10.0, 10, 30, 50], np.float32), (BEST_BOXES + 50, 1))
    scores = np.linspace(0, 1, len(some), dtype=np.float32)[:, None]
    moved, changed = some.copy(), scores.copy()
    moved[3, 2] += 4  # an unlikely box, 40 px high
    moved[-1, 0] -= 0.5  # the likeliest one
    changed[7] += 0.25
    difference = TensorDifference()
    difference.add(some, scores, some, scores)
    difference.add(some, scores, moved, changed)
    assert (difference.images, difference.boxes, difference.best_boxes) == (2, 4.0, 0.5)
    assert difference.relative_boxes == pytest.approx(4 / 40)
    assert difference.scores == pytest.approx(0.25)


def test_a_tensor_that_is_not_a_number_is_never_the_smaller_difference() -> None:
    some, scores = np.ones((2, 4), np.float32), np.ones((2, 1), np.float32)
    difference = TensorDifference()
    difference.add(some, scores, some * np.nan, scores)
    difference.add(some, scores, some, scores)
    assert np.isnan(difference.boxes)
