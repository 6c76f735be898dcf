"""Suppression in NumPy is torchvision's to the last bit, as the graph's is."""

import numpy as np
import pytest
import torch
from torchvision import ops

from detheads.deploy.suppression import suppress, survivors
from detheads.foundation.manifest import Thresholds
from detheads.ops.nms import hard_nms


def dense(seed: int, boxes: int = 300, classes: int = 3, levels: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Crowded boxes, some outside a 160-pixel input, and scores among which many are equal."""
    random = np.random.default_rng(seed)
    corners = random.uniform(-30, 170, (boxes, 2))
    sides = random.uniform(5, 60, (boxes, 2))
    scores = random.integers(0, levels, (boxes, classes)) / levels
    return np.concatenate((corners, corners + sides), axis=1).astype(np.float32), scores.astype(np.float32)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"score": 0.5},
        {"nms_iou": 0.3},
        {"nms_iou": 0.6},
        {"nms_iou": 1.0},
        {"max_detections": 7},
        {"candidates": 40},
        {"score": 0.0, "candidates": 900, "max_detections": 900},
    ],
)
def test_dense_boxes_become_torchvision_s_detections(limits: dict[str, float]) -> None:
    thresholds = Thresholds(**limits)
    for seed in range(8):
        boxes, scores = dense(seed)
        found = suppress(boxes, scores, thresholds, height=160, width=160)
        wanted = hard_nms(torch.from_numpy(boxes), torch.from_numpy(scores), thresholds, size=(160, 160))
        clipped = ops.clip_boxes_to_image(wanted[0], (160, 160))
        for ours, theirs in zip(found, (clipped, *wanted[1:]), strict=True):
            np.testing.assert_array_equal(ours, theirs.numpy())


def test_boxes_without_scores_above_the_floor_give_nothing() -> None:
    boxes, scores = dense(0)
    found = suppress(boxes, scores * 0, Thresholds(), height=160, width=160)
    assert [array.shape for array in found] == [(0, 4), (0,), (0,)]


def test_survivors_are_those_of_batched_nms() -> None:
    for seed in range(8):
        boxes, scores = dense(seed, classes=1, levels=10_000)
        scores, labels = scores[:, 0], np.arange(len(boxes)) % 3
        order = np.argsort(-scores, kind="stable")
        kept = order[survivors(boxes[order].astype(np.float64), labels[order], 0.4)]
        wanted = ops.batched_nms(
            *map(torch.from_numpy, (boxes.astype(np.float64), scores.astype(np.float64), labels)), 0.4
        )
        np.testing.assert_array_equal(kept, wanted.numpy())


def test_a_part_of_an_object_yields_to_the_box_that_holds_it() -> None:
    boxes = np.array([[0, 0, 100, 100], [60, 0, 100, 100], [60, 0, 140, 100]], float)
    labels = np.zeros(3, int)
    assert survivors(boxes, labels, 0.5).tolist() == [0, 1, 2]
    assert survivors(boxes, labels, 0.5, np.array([False, True, True])).tolist() == [0, 2]
    assert survivors(boxes, np.array([0, 1, 0]), 0.5, np.array([False, True, True])).tolist() == [0, 1, 2]
