"""The paired bootstrap, against pycocotools on images that are really repeated."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detheads.evaluation.coco import Statistics, evaluate, judge_all, statistics_of
from detheads.evaluation.compare import AREAS, Area, Bootstrap, Interval, Resampled
from tests.report.scenes import crowded

Results = list[dict[str, Any]]


def repeated(truth: dict[str, Any], results: Results, times: Sequence[int]) -> tuple[dict[str, Any], Results]:
    """The images, by ascending id, as often as asked, each copy with ids of its own."""
    ids = sorted(image["id"] for image in truth["images"])
    images, annotations, found = [], [], []
    for copy in range(max(times)):
        chosen = {number for number, count in zip(ids, times, strict=True) if count > copy}
        for kind, source in ((images, truth["images"]), (annotations, truth["annotations"]), (found, results)):
            key = "id" if source is truth["images"] else "image_id"
            kind += [entry | {key: entry[key] + 10_000_000 * copy} for entry in source if entry[key] in chosen]
    return {**truth, "images": images, "annotations": annotations}, found


def mean(values: Any) -> float | None:
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def scene(seed: int) -> tuple[dict[str, Any], Results]:
    """Boxes of all three sizes, crowds, and scores of which no two are equal, so that their order is one."""
    known, results = crowded(seed, images=8)
    truth = known.coco_json()
    for place, entry in enumerate(results):
        entry["score"] += place * 1e-6
    for place, entry in enumerate(truth["annotations"]):  # as where masks are given: not the area of the box
        entry["area"] = (500.0, 5000.0, 20_000.0)[place % 3]
    return truth, results


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("area", AREAS)
def test_ap_with_images_that_occur_several_times_is_that_of_repeated_images(seed: int, area: Area) -> None:
    truth, results = scene(seed)
    judged = Resampled(judge_all(truth, results), area)
    random = np.random.default_rng(seed)
    times = np.array([np.ones(8, np.int64), *random.integers(0, 3, (4, 8)), np.zeros(8, np.int64)])
    found = judged.average_precisions(times)
    for drawn, values in zip(times[:-1], found, strict=False):
        expected = evaluate(*repeated(truth, results, drawn.tolist()))
        assert mean(values) == pytest.approx(getattr(expected, "AP" if area == "all" else f"AP{area[0]}"), abs=1e-12)
        if area == "all":
            assert mean(values[:, 0]) == pytest.approx(expected.AP50, abs=1e-12)
            assert mean(values[:, 5]) == pytest.approx(expected.AP75, abs=1e-12)
            for own, statistics in zip(values, expected.per_class.values(), strict=True):
                assert mean(own) == pytest.approx(statistics.AP, abs=1e-12)
    assert np.isnan(found[-1]).all()


def test_aps_and_boxes_of_published_detections_are_pycocotools(conformance: Path) -> None:
    """80 classes, crowds, more than 100 detections in some images."""
    truth = json.loads((conformance / "instances_val2014_100.json").read_text())
    results = json.loads((conformance / "instances_val2014_fakebbox100_results.json").read_text())
    judge = judge_all(truth, results)
    statistics = statistics_of(judge)
    assert statistics == evaluate(truth, results)
    once = np.ones((1, 100), np.int64)
    for area, name in zip(AREAS, ("AP", "APs", "APm", "APl"), strict=True):
        judged = Resampled(judge, area)
        assert mean(judged.average_precisions(once)) == pytest.approx(getattr(statistics, name), abs=1e-12)
    assert Resampled(judge).boxes.sum() == sum(not entry["iscrowd"] for entry in truth["annotations"])


def test_the_interval_holds_the_difference_repeats_and_is_zero_between_equals() -> None:
    known, results = crowded(4, images=12)
    truth = known.coco_json()
    full, half = (Resampled(judge_all(truth, part)) for part in (results, results[::2]))
    found = Bootstrap(half).differences(full)
    assert found == Bootstrap(half).differences(full) != Bootstrap(half, seed=1).differences(full)
    more: Statistics = evaluate(truth, results)
    less = evaluate(truth, results[::2])
    for name in ("AP", "AP50", "AP75"):
        low, high = getattr(found, name)
        assert low < getattr(more, name) - getattr(less, name) < high
    assert Bootstrap(full).differences(full).AP == (0, 0)


def test_a_class_of_its_own_has_its_own_interval_and_one_without_objects_none() -> None:
    truth, results = scene(5)
    truth["categories"] = [*truth["categories"], {"id": 1000, "name": "nowhere"}]
    lost = truth["categories"][1]["id"]
    both = [Resampled(judge_all(truth, part)) for part in (results, [e for e in results if e["category_id"] != lost])]
    found = Bootstrap(both[0]).differences(both[1])
    place = sorted(category["id"] for category in truth["categories"]).index(lost)
    assert [interval is None for interval in found.classes] == [False, False, False, True]
    for column, interval in enumerate(found.classes[:3]):
        assert interval is not None
        assert (interval.low < interval.high <= 0) if column == place else interval == (0, 0)


@pytest.mark.parametrize(
    ("interval", "within", "beyond"),
    [
        ((-0.001, 0.002), True, False),
        ((-0.003, 0.001), False, False),
        ((0.0025, 0.01), False, True),
        ((-1, -0.1), False, True),
    ],
)
def test_an_interval_lies_within_a_limit_beyond_it_or_across(
    interval: tuple[float, float], within: bool, beyond: bool
) -> None:
    assert Interval(*interval).within(0.002) is within
    assert Interval(*interval).beyond(0.002) is beyond


def test_an_interval_is_told_with_its_signs_but_for_what_rounds_to_zero() -> None:
    assert Interval(-0.00123, 0.00031).told() == "-0.0012 to +0.0003"
    assert Interval(-1e-9, 0.0).told() == "+0.0000 to +0.0000"
