"""Each hypothesis by itself: it names what was done, and nothing where nothing was."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy import Detections
from detheads.export.explain.constants import explain_suppression
from detheads.export.explain.decoding import altered_classes, explain_boxes
from detheads.export.explain.preprocessing import explain_inputs, explain_normalisation
from detheads.export.explain.trail import coarse
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.manifest import Thresholds

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (3, 20, 30), dtype=np.uint8)


def affine(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    wide = PICTURE.astype(np.float32) / 255
    return (wide - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (PICTURE.astype(np.float32), "normalisation", "is left out"),
        (PICTURE / 255, "normalisation", "only the division by 255"),
        (affine(MEAN, STD)[::-1], "channel order", "(BGR)"),
        (affine((0.5,) * 3, (0.5,) * 3), "normalisation", "mean (0.500, 0.500, 0.500) and standard deviation (0.500"),
    ],
)
def test_normalisation_is_read_off_what_enters_the_backbone(given: NDArray[np.float32], kind: str, words: str) -> None:
    cause = explain_normalisation([PICTURE], [given], MEAN, STD)
    assert cause.kind == kind
    assert words in cause.sentence


def test_an_input_as_it_should_be_is_no_cause_and_an_unknown_one_is_called_that() -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (31, 47, 3), dtype=np.uint8))
    right = letterbox_image(image, 64, 64)[0]
    assert explain_inputs([right], [image], (64, 64)) is None
    unknown = explain_inputs([255 - right], [image], (64, 64))
    assert unknown is not None
    assert unknown.kind == "unknown"
    other_size = explain_inputs([right[:32]], [image], (64, 64))
    assert other_size is not None
    assert "(32, 64, 3)" in other_size.sentence


@pytest.mark.parametrize(
    ("constant", "value", "words"),
    [("score", 0.3, "a lowest score of 0.3"), ("max_detections", 5, "detections of an image at most: 5")],
)
def test_other_constants_than_those_of_the_manifest_are_found(constant: str, value: float, words: str) -> None:
    scores = np.linspace(0.9, 0.06, 40, dtype=np.float32)
    corners = np.arange(40)[:, None] * 20.0
    boxes = np.concatenate([corners, corners, corners + 15, corners + 15], axis=1)
    meant = Thresholds()

    def suppress(thresholds: Thresholds) -> list[Detections]:
        kept = np.flatnonzero(scores > thresholds.score)[: thresholds.max_detections]
        return [Detections(boxes[kept], scores[kept], np.zeros(len(kept), np.int32))]

    assert explain_suppression(suppress(meant), meant, suppress) is None
    cause = explain_suppression(suppress(Thresholds(**{constant: value})), meant, suppress)
    assert cause is not None
    assert cause.kind == "suppression"
    assert words in cause.sentence


def test_a_shift_of_all_boxes_is_told_in_strides_and_noise_is_none() -> None:
    boxes, scores = RANDOM.uniform(0, 100, (50, 4)).astype(np.float32), np.zeros((50, 2), np.float32)
    strides = np.repeat([8.0, 16.0], 25)
    moved = boxes - 0.5 * strides[:, None].astype(np.float32)
    cause = explain_boxes([(boxes, scores)], [(moved, scores)], strides)
    assert cause is not None
    assert "half a stride: (-0.50, -0.50)" in cause.sentence
    noisy = boxes + RANDOM.normal(0, 5, boxes.shape).astype(np.float32)
    assert explain_boxes([(boxes, scores)], [(noisy, scores)], strides) is None


def test_single_classes_are_told_from_all_of_them() -> None:
    boxes, scores = np.zeros((5, 4), np.float32), RANDOM.uniform(0, 1, (5, 3)).astype(np.float32)
    one = scores.copy()
    one[:, 1] = 0
    assert altered_classes([(boxes, scores)], [(boxes, one)]) == [1]
    assert altered_classes([(boxes, scores)], [(boxes, scores / 2)]) == []


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("backbone.maps.model.blocks.3", True),
        ("backbone.maps.model.blocks.1.2", True),
        ("backbone.maps.model.blocks.3.attn", False),
        ("head.class_tower.0.1", True),
        ("head.distances", True),
    ],
)
def test_what_is_looked_at_first_are_blocks_and_what_is_larger(path: str, block: bool) -> None:
    assert coarse(path) == block
