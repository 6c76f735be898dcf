"""The paired bootstrap, against pycocotools on images that are really repeated."""

import numpy as np
import pytest

from detheads.evaluation.coco import evaluate
from detheads.evaluation.compare import Resampled, bootstrap_difference
from tests.report.scenes import crowded


@pytest.mark.parametrize("seed", range(3))
def test_ap_with_images_that_occur_several_times_is_that_of_repeated_images(seed: int) -> None:
    known, results = crowded(seed)
    for place, entry in enumerate(results):  # no two scores are equal, so that their order is one
        entry["score"] += place * 1e-6
    truth = known.coco_json()
    judged = Resampled(truth, results)
    ids = sorted(image["id"] for image in truth["images"])
    random = np.random.default_rng(seed)
    for times in (np.ones(len(ids), np.int64), random.integers(0, 3, len(ids)), random.integers(0, 3, len(ids))):
        images, annotations, found = [], [], []
        for copy in range(3):
            chosen = {number for number, count in zip(ids, times, strict=True) if count > copy}
            for kind, source in ((images, truth["images"]), (annotations, truth["annotations"]), (found, results)):
                key = "id" if source is truth["images"] else "image_id"
                kind += [entry | {key: entry[key] + 10_000 * copy} for entry in source if entry[key] in chosen]
        repeated = {**truth, "images": images, "annotations": annotations}
        assert judged.average_precision(times) == pytest.approx(evaluate(repeated, found).AP)


def test_the_interval_holds_the_difference_repeats_and_is_zero_between_equals() -> None:
    known, results = crowded(4, images=12)
    truth = known.coco_json()
    full, half = Resampled(truth, results), Resampled(truth, results[::2])
    interval = bootstrap_difference(half, full)
    assert interval is not None and interval == bootstrap_difference(half, full)
    difference = (evaluate(truth, results).AP or 0) - (evaluate(truth, results[::2]).AP or 0)
    assert interval[0] < difference < interval[1]
    assert bootstrap_difference(full, full) == (0, 0)
