"""Which difference counts: of means, of sizes, of classes with many boxes and with few."""

from dataclasses import replace

import pytest

from detheads.evaluation.coco import NAMES, ClassStatistics, Statistics
from detheads.evaluation.compare import Differences, Interval
from detheads.export.criteria import ENOUGH_BOXES, FEW_IMAGES, Criterion, Objects, criteria
from detheads.export.limits import Limits

NONE = Interval(0.0, 0.0)


def statistics(ap: float | None = 0.5, **classes: float | None) -> Statistics:
    return Statistics(
        **dict.fromkeys(NAMES, ap), per_class={name: ClassStatistics(value, value) for name, value in classes.items()}
    )


def objects(*boxes: int, images: int = 100) -> Objects:
    return Objects(sum(boxes), boxes, [images] * len(boxes), {"small": 1000, "medium": 10, "large": 0})


def differences(*classes: Interval | None) -> Differences:
    return Differences(NONE, NONE, NONE, classes)


def test_every_figure_is_compared_with_its_own_limit_boxes_and_interval() -> None:
    found = criteria(
        statistics(0.5, cat=0.6, dog=0.4),
        statistics(0.49, cat=0.6, dog=0.3),
        Differences(Interval(-0.03, 0.01), NONE, NONE, [NONE, Interval(-0.2, -0.05)]),
        objects(600, 410),
        Limits.of("int8"),
    )
    assert [each.name for each in found] == ["AP", "AP50", "AP75", "small", "medium", "large", "cat", "dog"]
    by_name = {each.name: each for each in found}
    assert by_name["AP"].drop == pytest.approx(0.01)
    assert by_name["AP"].interval == (-0.01, 0.03)  # of the drop: the difference turned round
    assert by_name["dog"].interval == (0.05, 0.2)
    assert [by_name[name].boxes for name in ("AP", "small", "medium", "cat", "dog")] == [1010, 1000, 10, 600, 410]
    limits = [by_name[name].limit for name in ("AP", "AP50", "AP75", "small", "dog")]
    assert limits == [0.005, 0.015, 0.025, 0.025, 0.05]
    assert [each.name for each in found if each.failed] == ["AP", "dog"]


def test_what_no_object_defines_is_not_compared_nor_a_class_that_is_alone() -> None:
    live, artefact = statistics(0.5, cat=0.5), statistics(0.5, cat=0.4)
    assert {each.kind for each in criteria(live, artefact, differences(NONE), objects(9), Limits.of("fp32"))} == {
        "AP", "AP50", "AP75", "small", "medium", "large",
    }  # fmt: skip
    live = replace(statistics(0.5, cat=0.5, dog=None), APs=None)
    found = criteria(live, live, differences(NONE, None), objects(9, 0), Limits.of("fp32"))
    assert [each.name for each in found] == ["AP", "AP50", "AP75", "medium", "large", "cat"]


CLASS = Criterion("dog", "class", 0.5, 0.3, ENOUGH_BOXES, 0.05, Interval(0.1, 0.3), FEW_IMAGES)
FEW = replace(CLASS, boxes=ENOUGH_BOXES - 1)


@pytest.mark.parametrize(
    ("criterion", "failed"),
    [
        (CLASS, True),
        (replace(CLASS, artefact=0.7), True),  # better is another model too
        (replace(CLASS, artefact=0.55, gain=0.1), False),  # where less loss was asked for, gains keep their own limit
        (replace(CLASS, artefact=0.61, gain=0.1), True),
        (replace(CLASS, artefact=0.45), False),
        (replace(CLASS, artefact=0.4499), True),
        (replace(CLASS, interval=Interval(0.0, 0.3)), True),  # on enough boxes the difference is what counts
        (FEW, True),  # on few a loss that is certain
        (replace(FEW, interval=Interval(0.04, 0.3)), False),
        (replace(FEW, interval=Interval(-0.3, -0.06), artefact=0.7), True),
        (replace(FEW, images=FEW_IMAGES - 1), False),
        (replace(FEW, interval=None), False),
        (replace(FEW, kind="small", images=None), False),
        (replace(CLASS, kind="small", images=None), True),
        (replace(FEW, name="AP", images=FEW_IMAGES - 1), False),  # a class of that name
        (replace(FEW, kind="AP", name="AP", interval=None), True),
    ],
)
def test_a_difference_counts_on_enough_boxes_and_a_certain_one_on_few(criterion: Criterion, failed: bool) -> None:
    assert criterion.failed is failed


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("AP", "mAP differs by +0.2000, allowed is 0.05"),
        ("AP75", "AP75 differs by +0.2000, allowed is 0.05"),
        ("small", "AP of small objects (50 boxes) differs by +0.2000, allowed is 0.05"),
        ("class", "AP of class 'dog' (50 boxes) differs by +0.2000, allowed is 0.05"),
    ],
)
def test_a_difference_is_told_with_its_limit(kind: str, sentence: str) -> None:
    assert replace(CLASS, kind=kind).told() == sentence
