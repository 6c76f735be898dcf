"""One-to-one matching against all permutations, with costs written from the papers."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from detheads.targets.hungarian import match_one_to_one
from detheads.targets.objects import TargetBatch, Targets


def giou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union - (hull - union) / hull


def cost(logit: float, box: list[float], target: list[float]) -> float:
    """2 x focal + 5 x L1 - 2 x GIoU."""
    p = 1 / (1 + math.exp(-logit))
    focal = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
    return 2 * focal + 5 * sum(abs(x - y) for x, y in zip(box, target, strict=True)) - 2 * giou(box, target)


def total(pairs: list[tuple[int, int]], logits: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor) -> float:
    return sum(cost(float(logits[n, labels[m]]), boxes[n].tolist(), targets[m].tolist()) for n, m in pairs)


def match(logits: Tensor, boxes: Tensor, target_boxes: Tensor, target_labels: Tensor) -> list[int]:
    """The object of each prediction of one image, -1 for none."""
    targets = TargetBatch.of([Targets(target_boxes, target_labels)])
    predictions, objects = match_one_to_one(logits[None, None], boxes[None, None], targets)
    matched = [-1] * len(boxes)
    for prediction, index in zip(predictions[0].tolist(), objects[0].tolist(), strict=True):
        matched[prediction] = index
    return matched


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64)
    return torch.cat((corners.amin(dim=1), corners.amax(dim=1) + 0.01), dim=1)


@pytest.mark.parametrize(("predictions", "objects"), [(6, 3), (4, 4), (2, 5), (5, 1), (3, 0)])
@pytest.mark.parametrize("seed", range(5))
def test_the_matching_is_the_cheapest_of_all(predictions: int, objects: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, targets = random_boxes(predictions, generator), random_boxes(objects, generator)
    logits = 3 * torch.randn(predictions, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (objects,), generator=generator)

    few = min(predictions, objects)
    candidates = (
        list(zip(rows, columns, strict=True))
        for rows in itertools.permutations(range(predictions), few)
        for columns in itertools.combinations(range(objects), few)
    )
    cheapest = min(candidates, key=lambda pairs: total(pairs, logits, boxes, targets, labels))

    matched = match(logits, boxes, targets, labels)
    assert [(n, m) for n, m in enumerate(matched) if m >= 0] == sorted(cheapest)


def test_of_two_equal_boxes_the_one_of_the_right_class_is_taken() -> None:
    box = torch.tensor([[0.1, 0.1, 0.4, 0.5]])
    logits = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    assert match(logits, box.expand(2, 4), box, torch.tensor([1])) == [-1, 0]


def test_predictions_that_are_not_finite_lose_to_any_other() -> None:
    target = torch.tensor([[0.1, 0.1, 0.4, 0.5]])
    boxes = torch.tensor([[math.nan] * 4, [0.8, 0.8, 0.9, 0.9]])  # the second lies far off
    assert match(torch.full((2, 1), -5.0), boxes, target, torch.tensor([0])) == [-1, 0]


def test_an_infinite_logit_is_the_surest_prediction() -> None:
    target = torch.tensor([[0.1, 0.1, 0.4, 0.5]])
    logits = torch.tensor([[9.0], [math.inf]])
    assert match(logits, target.expand(2, 4), target, torch.tensor([0])) == [-1, 0]


def test_layers_and_images_are_matched_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(3)
    counts = (2, 0, 7, 3)  # more objects than predictions in the third
    targets = [
        Targets(random_boxes(count, generator), torch.randint(4, (count,), generator=generator)) for count in counts
    ]
    logits = 3 * torch.randn(3, 4, 5, 4, generator=generator, dtype=torch.float64)
    boxes = random_boxes(3 * 4 * 5, generator).view(3, 4, 5, 4)
    predictions, objects = match_one_to_one(logits, boxes, TargetBatch.of(targets))
    assert predictions.shape == objects.shape == (3, 2 + 0 + 5 + 3)
    for layer in range(3):
        expected, start = [], 0
        for image, target in enumerate(targets):
            alone = match(logits[layer, image], boxes[layer, image], target.boxes, target.labels)
            expected += [(n, start + m) for n, m in enumerate(alone) if m >= 0]
            start += len(target.labels)
        assert list(zip(predictions[layer].tolist(), objects[layer].tolist(), strict=True)) == expected
