from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detheads.foundation.manifest import Thresholds
from detheads.ops.nms import Candidates, hard_nms, soft_nms

Nms = Callable[..., tuple[Tensor, Tensor, Tensor]]


def scene(count: int, classes: int, seed: int, spread: float = 60.0) -> tuple[Tensor, Tensor]:
    """Random boxes ``[N, 4]``, some at negative coordinates, and scores ``[N, K]``."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 2, generator=generator) * spread
    sides = torch.rand(count, 2, generator=generator) * 60 + 5
    return torch.cat((centers - sides / 2, centers + sides / 2), dim=1), torch.rand(count, classes, generator=generator)


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def soft_reference(boxes: Tensor, scores: Tensor, threshold: float, overlap: float) -> list[tuple[float, int, int]]:
    """Soft-NMS class by class as the paper's figure 2: (score, label, box index), best first."""
    found = []
    for label in range(scores.shape[1]):
        left = {n: score for n, score in enumerate(scores[:, label].tolist()) if score > threshold}
        while left:
            best = max(left, key=lambda n: left[n])
            found.append((left.pop(best), label, best))
            for n in list(left):
                value = iou(boxes[best].tolist(), boxes[n].tolist())
                if value > overlap:
                    left[n] *= 1 - value
                if left[n] <= threshold:
                    del left[n]
    return sorted(found, reverse=True)


@pytest.mark.parametrize(("threshold", "overlap"), [(0.05, 0.5), (0.3, 0.3)])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_soft_nms_equals_the_papers_loop(seed: int, classes: int, threshold: float, overlap: float) -> None:
    boxes, scores = scene(40, classes, seed)
    expected = soft_reference(boxes, scores, threshold, overlap)[:60]
    found = soft_nms(boxes, scores, Thresholds(score=threshold, nms_iou=overlap, max_detections=60))
    assert found[2].tolist() == [label for _, label, _ in expected]
    torch.testing.assert_close(found[0], boxes[[index for _, _, index in expected]], rtol=0, atol=0)
    assert found[1].tolist() == pytest.approx([score for score, _, _ in expected], rel=1e-5)


def test_soft_nms_keeps_an_overlapping_box_that_hard_nms_removes() -> None:
    boxes, scores = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0]]), torch.tensor([[0.9], [0.8]])
    assert hard_nms(boxes, scores, Thresholds())[1].tolist() == pytest.approx([0.9])
    assert soft_nms(boxes, scores, Thresholds())[1].tolist() == pytest.approx([0.9, 0.8 * (1 - 0.8)])


@pytest.mark.parametrize("nms", [hard_nms, soft_nms])
def test_limits_are_kept(nms: Nms) -> None:
    boxes, scores = scene(60, 3, seed=0, spread=900.0)
    assert len(nms(boxes, scores, Thresholds(max_detections=7))[1]) == 7
    best = scores.flatten().sort(descending=True).values[:5]
    torch.testing.assert_close(nms(boxes, scores, Thresholds(candidates=5, nms_iou=1.0))[1], best)
    assert (nms(boxes, scores, Thresholds(score=0.7))[1] > 0.7).all()


@pytest.mark.parametrize("nms", [hard_nms, soft_nms])
def test_by_default_a_hundred_detections_of_the_best_thousand_pairs_are_kept(nms: Nms) -> None:
    apart = torch.arange(1200.0)[:, None] * 20 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    scores = torch.linspace(0.06, 1, 1200)[:, None]
    assert torch.equal(nms(apart, scores, Thresholds())[1], scores.flatten().flip(0)[:100])
    assert len(nms(apart, scores, Thresholds(max_detections=5000))[1]) == 1000


@pytest.mark.parametrize("nms", [hard_nms, soft_nms])
def test_the_unit_of_the_boxes_does_not_matter(nms: Nms) -> None:
    boxes, scores = scene(40, 2, seed=3)
    pixels, shares = nms(boxes, scores, Thresholds()), nms(boxes / 640, scores, Thresholds())
    torch.testing.assert_close(shares[0], pixels[0] / 640)
    torch.testing.assert_close(shares[1:], pixels[1:])


@pytest.mark.parametrize("nms", [hard_nms, soft_nms])
@pytest.mark.parametrize("count", [0, 5])
def test_nothing_above_the_score_threshold_gives_nothing(nms: Nms, count: int) -> None:
    boxes, scores = scene(count, 2, seed=0)
    found = nms(boxes, scores * 0.04, Thresholds())
    assert [tuple(part.shape) for part in found] == [(0, 4), (0,), (0,)]


@pytest.mark.parametrize("nms", [hard_nms, soft_nms])
def test_boxes_without_area_inside_the_input_take_no_part(nms: Nms) -> None:
    boxes = torch.tensor(
        [[5.0, 5, 5, 20], [-9, 3, 0, 9], [40, 8, 60, 20], [2, 30, 9, 39], [9, 4, 3, 8], [30, 2, 50, 9], [3, 29, 8, 50]]
    )
    scores = torch.linspace(0.9, 0.3, 7)[:, None]
    kept = nms(boxes, scores, Thresholds(max_detections=2), size=(30, 40))
    assert torch.equal(kept[0], boxes[[5, 6]])
    assert len(nms(boxes, scores, Thresholds())[1]) == 7


def by_sorting_all(boxes: Tensor, scores: Tensor, limits: Thresholds, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(box, class) of the best pairs of one image, in order: box and class rank equal scores."""
    height, width = size
    pairs = [
        (-score, box, label)
        for box, row in enumerate(scores.tolist())
        for label, score in enumerate(row)
        if score > limits.score
        and min(boxes[box, 2], width) > max(boxes[box, 0], 0)
        and min(boxes[box, 3], height) > max(boxes[box, 1], 0)
    ]
    return [(box, label) for _, box, label in sorted(pairs)[: limits.candidates]]


@pytest.mark.parametrize("levels", [4, 1000])
@pytest.mark.parametrize("candidates", [1, 50, 10_000])
def test_candidates_of_a_batch_are_those_of_a_sort_of_all_pairs_of_each_image(levels: int, candidates: int) -> None:
    images = [scene(60, 3, seed) for seed in range(3)] + [(scene(60, 3, 9)[0], torch.zeros(60, 3))]
    boxes, scores = (torch.stack(part) for part in zip(*images, strict=True))
    scores = (scores * levels).floor() / levels  # so that many are equal
    limits, size = Thresholds(score=0.3, candidates=candidates), (40, 50)
    found = list(Candidates.of(boxes, scores, limits, size=size))
    assert len(found) == 4
    for image, pairs in enumerate(found):
        expected = by_sorting_all(boxes[image], scores[image], limits, size)
        assert pairs.labels.tolist() == [label for _, label in expected]
        assert torch.equal(pairs.boxes, boxes[image, [box for box, _ in expected]])
        assert torch.equal(pairs.scores, scores[image][[box for box, _ in expected], pairs.labels])
        assert pairs.counts.tolist() == [len(expected)]
