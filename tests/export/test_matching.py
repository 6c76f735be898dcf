from dataclasses import dataclass

import numpy as np

from detheads.export.matching import Comparison, match


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
