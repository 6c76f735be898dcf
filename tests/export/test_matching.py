from dataclasses import dataclass

import numpy as np
import pytest

from detheads.export.matching import BEST_BOXES, Comparison, TensorDifference, in_the_order_of, match


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


def pairs_by_one_score(first: Boxes, second: Boxes) -> list[tuple[int, int]]:
    """The pairing as one number a pair: IoU, or above 1 and falling with the distance for boxes half a pixel apart."""
    pairs: list[tuple[int, int]] = []
    for i in sorted(range(len(first.scores)), key=lambda row: -first.scores[row]):
        best, chosen = 0.0, -1
        for j in range(len(second.scores)):
            if first.labels[i] != second.labels[j] or j in [column for _, column in pairs]:
                continue
            a, b = first.boxes[i].tolist(), second.boxes[j].tolist()
            shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            apart = max(abs(x - y) for x, y in zip(a, b, strict=True))
            alike = 2.0 - apart if apart <= 0.5 else shared / union if union > 0 else 0.0
            if alike > best:
                best, chosen = alike, j
        if best >= 0.75:
            pairs.append((i, chosen))
    return pairs


@pytest.mark.parametrize("side", [0.0, 0.75, 3.0, 12.0], ids="sides of {} px".format)
def test_pairs_are_those_of_a_walk_box_by_box_with_ties_and_tiny_boxes(side: float) -> None:
    random = np.random.default_rng(int(8 * side))
    paired = 0
    for _ in range(150):
        sides = []
        for count in random.integers(0, 12, 2):
            corner = random.integers(0, 12, (count, 2)) / 4  # quarters of a pixel: many ties
            size = side + random.integers(0, 5, (count, 2)) / 4
            rows = [corner, corner + size, random.integers(0, 4, (count, 1)) / 4, random.integers(0, 2, (count, 1))]
            sides.append(boxes(*np.concatenate(rows, axis=1).tolist()))
        found = match(*sides)
        assert found == pairs_by_one_score(*sides)
        paired += len(found)
    assert paired > 50


def test_two_sides_of_different_length_are_never_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Comparison.of([boxes(), boxes()], [boxes()])


def test_nothing_on_both_sides_is_agreement_and_on_one_is_not() -> None:
    comparison = Comparison()
    comparison.add(boxes(), boxes())
    assert comparison.share == 1
    comparison.add(boxes(), boxes((0, 0, 1, 1, 0.5, 0)))
    assert comparison.share == 0


def test_a_comparison_writes_what_it_counted_over_all_images() -> None:
    comparison = Comparison()
    comparison.add(boxes((0, 0, 10, 10, 0.9, 0), (40, 40, 50, 60, 0.5, 1)), boxes((0, 0, 10, 10.25, 0.65, 0)))
    comparison.add(
        boxes((5, 5, 9, 9, 0.5, 2)), boxes((5.125, 5, 9, 9, 0.375, 2), (80, 0, 90, 9, 0.5, 2), (1, 2, 3, 4, 1, 0))
    )
    assert comparison.to_dict() == {
        "images": 2,
        "matched": 2,
        "only_first": 1,
        "only_second": 2,
        "matched_share": pytest.approx(4 / 7),
        "max_box_difference_px": 0.25,
        "max_score_difference": pytest.approx(0.25),
    }


@pytest.mark.parametrize(
    ("box", "longer"),
    [([100, 20, 130, 30], 30), ([5, 200, 10, 260], 60), ([130, 30, 100, 20], 30), ([7, 7, 7.25, 7.5], 1)],
)
def test_tensor_differences_are_written_also_as_shares_of_the_longer_side(box: list[float], longer: float) -> None:
    """A box may be turned inside out before suppression, where nothing stands behind it."""
    some, scores = np.array([[0, 0, 500, 500], box], np.float32), np.zeros((2, 3), np.float32)
    difference = TensorDifference()
    difference.add(some, scores, some + np.array([[0], [2]], np.float32), scores + np.float32(0.125))
    assert difference.to_dict() == {
        "images": 1,
        "max_box_difference_px": 2.0,
        "max_relative_box_difference": pytest.approx(2 / longer),
        "max_box_difference_px_best": 2.0,
        "max_score_difference": 0.125,
        "max_decision_difference": 0.0,
        "ties": 0,
    }


@pytest.mark.parametrize(("rank", "counts"), [(0, True), (99, True), (100, False)])
def test_the_hundred_boxes_of_the_highest_score_in_any_class_are_the_likely_ones(rank: int, counts: bool) -> None:
    scores = np.zeros((150, 2), np.float32)
    order = np.random.default_rng(0).permutation(150)
    scores[order, np.arange(150) % 2] = np.linspace(1, 0.1, 150)
    some = np.tile(np.array([10.0, 10, 30, 50], np.float32), (150, 1))
    moved = some.copy()
    moved[order[rank]] += 3
    difference = TensorDifference()
    difference.add(some, scores, moved, scores)
    assert difference.best_boxes == (3 if counts else 0)


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


def candidates(*order: int) -> tuple[np.ndarray, np.ndarray]:
    """Some of eight candidates: boxes and scores of two classes, the best score falling from 0.8 by tenths."""
    corner = 10.0 * np.arange(8)[:, None]
    every = np.concatenate((corner, corner, corner + 30, corner + 40), axis=1)
    best = 0.8 - 0.1 * np.arange(8)
    scores = np.stack((best, best / 2), axis=1)
    return every[list(order)].astype(np.float32), scores[list(order)].astype(np.float32)


def ordered(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> TensorDifference:
    difference = TensorDifference()
    difference.add(*first, *in_the_order_of(first, second))
    return difference


def test_candidates_that_changed_places_are_compared_as_a_set() -> None:
    assert ordered(candidates(0, 1, 2, 3), candidates(0, 3, 1, 2)).within(1e-6)
    boxes, scores = candidates(3, 2, 1, 0)
    assert ordered(candidates(0, 1, 2, 3), (boxes + np.float32(0.001), scores)).boxes == pytest.approx(0.001, rel=0.01)


def test_a_near_tie_at_the_edge_of_the_selection_is_no_difference() -> None:
    first, second = candidates(0, 1, 2, 3), candidates(4, 0, 1, 2)
    assert not ordered(first, second).within(1e-2)
    second[1][0] = first[1][3] + np.float32(1e-4)
    assert ordered(first, second).within(1e-6)


@pytest.mark.parametrize("row", [0, 1])
def test_a_candidate_that_is_lost_or_changed_is_not_paired_away(row: int) -> None:
    first = candidates(0, 1, 2, 3)
    lost, moved, swapped = candidates(3, 2, 1, 0), candidates(3, 2, 1, 0), candidates(3, 2, 1, 0)
    there = 3 - row
    lost[0][there], lost[1][there] = lost[0][(there + 1) % 4], lost[1][(there + 1) % 4]
    moved[0][there] += 1
    swapped[1][there] = swapped[1][there, ::-1]
    for second in (lost, moved, swapped):
        assert not ordered(first, second).within(1e-2)
