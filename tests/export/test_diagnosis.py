"""A proof that fails names the likely cause, an option, and the pictures that differ most."""

import numpy as np
import pytest

from detheads.deploy import Detections
from detheads.export.diagnosis import Apart, advice, apart
from detheads.export.matching import TensorDifference
from detheads.foundation.manifest import Thresholds

LIMITS = Thresholds(score=0.05, max_detections=3)
EQUAL = TensorDifference(images=1, boxes=1e-4, relative_boxes=1e-6, scores=1e-7)


def found(*rows: tuple[float, ...]) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    array = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(array[:, :4], array[:, 4].astype(np.float32), array[:, 5].astype(np.int32))


RIVALS = found((0, 0, 40, 40, 0.5, 0)), found((0, 0, 40, 60, 0.4999, 0))
SAME = found((0, 0, 40, 40, 0.9, 1))


@pytest.mark.parametrize(
    ("one", "other", "causes"),
    [
        (*RIVALS, ["rival", "rival"]),
        (found((0, 0, 9, 9, 0.5, 0)), found((0, 0, 9, 9, 0.5, 1)), ["", ""]),
        (found((0, 0, 9, 9, 0.0504, 0)), found(), ["floor"]),
        (
            found((0, 0, 9, 9, 0.8, 0), (20, 0, 29, 9, 0.7, 0), (40, 0, 49, 9, 0.3, 0)),
            found((0, 0, 9, 9, 0.8, 0), (20, 0, 29, 9, 0.7, 0), (60, 0, 69, 9, 0.3001, 0)),
            ["last", "last"],
        ),
        (SAME, SAME, None),
    ],
)
def test_each_detection_without_a_counterpart_has_its_cause(
    one: Detections, other: Detections, causes: list[str] | None
) -> None:
    pictures = apart(["a.jpg"], [one], [other], LIMITS)
    assert [[lone.cause for lone in picture.lone] for picture in pictures] == ([causes] if causes else [])


def test_the_pictures_that_differ_most_come_first_with_their_best_detections() -> None:
    two = found((0, 0, 9, 9, 0.3, 0), (50, 50, 80, 80, 0.7, 1)), found()
    pictures = apart(["same.jpg", "one.jpg", "two.jpg"], [SAME, found(), two[0]], [SAME, SAME, two[1]], LIMITS)
    assert [picture.picture for picture in pictures] == ["two.jpg", "one.jpg"]
    assert pictures[0].told(["cat", "dog"]) == (
        "two.jpg: 2 without a counterpart, such as dog 0.700 at 50, 50, 80, 80 only in PyTorch, "
        "cat 0.300 at 0, 0, 9, 9 only in PyTorch"
    )
    assert pictures[1].to_dict()["worst"][0]["side"] == "artefact"


def told(
    tensors: TensorDifference, odd: list[Apart], share: float = 0.9267, device: str = "cpu", least: float = 0.99
) -> str:
    return "; ".join(advice([], odd, tensors, [1.0, share], least, device))


def test_near_ties_on_pictures_of_extreme_shape_are_named_with_an_option() -> None:
    odd = apart(["a.jpg, middle strip 8:1"], [RIVALS[0]], [RIVALS[1]], LIMITS)
    sentence = told(EQUAL, odd)
    assert "equal but for rounding" in sentence
    assert (
        "2 of 2 unmatched detections lost to a rival of nearly the same score, mostly on the grey padding" in sentence
    )
    assert "--iou" in sentence
    assert sentence.endswith("accept them with --min-matched 0.92")


def test_tensors_that_differ_are_the_cause_and_the_device_is_named() -> None:
    odd = apart(["a.jpg"], [RIVALS[0]], [found()], LIMITS)
    differing = TensorDifference(images=1, boxes=3.0, relative_boxes=0.02)
    assert "--device cpu" in told(differing, odd, device="cuda")
    assert "computes something else than the model" in told(differing, odd)
    assert "computes something else" in told(
        TensorDifference(images=1, boxes=float("nan"), relative_boxes=float("nan")), odd
    )


def test_enough_matches_need_no_advice() -> None:
    odd = apart(["a.jpg"], [RIVALS[0]], [RIVALS[1]], LIMITS)
    assert told(EQUAL, odd, least=0.9) == ""
