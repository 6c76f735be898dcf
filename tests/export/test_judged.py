"""One class of many on real verdicts of pycocotools."""

import numpy as np
import pytest

from detheads.evaluation.compare import Bootstrap
from detheads.export.criteria import ENOUGH_BOXES, criteria
from detheads.export.judged import judged, objects_of
from detheads.export.limits import Limits
from tests.report.scenes import dataset, found


@pytest.mark.parametrize("boxes", [ENOUGH_BOXES, ENOUGH_BOXES // 2], ids=["many boxes", "few boxes"])
def test_one_class_of_eighty_cannot_vanish_in_the_mean(boxes: int) -> None:
    """Not even within the tolerance of INT8, on any number of boxes that several images show."""
    classes, images = 80, 10
    random = np.random.default_rng(0)
    known = dataset(
        [[(label, (10.0 * n, 5.0, 10.0 * n + 9, 40.0)) for n, label in enumerate(labels)] for labels in
         np.array_split(random.permutation(np.arange(classes).repeat(boxes)), images)],
        classes,
    )  # fmt: skip
    results = [
        found(known, image, int(label), tuple(box), float(random.random()))
        for image, objects in enumerate(known.objects)
        for label, box in zip(objects.labels, objects.boxes, strict=True)
        if random.random() < 0.3
    ]
    lost = known.categories[7].id
    live, other = (judged(known, part) for part in (results, [e for e in results if e["category_id"] != lost]))
    differences = Bootstrap(live.resampled, draws=200).differences(other.resampled)
    objects, limits = objects_of(known, live.resampled), Limits.of("int8")
    assert objects.sizes == {"small": classes * boxes, "medium": 0, "large": 0}
    compared = criteria(live.statistics, other.statistics, differences, objects, limits)
    assert [each.name for each in compared if each.failed] == ["class 7"]
    assert next(each for each in compared if each.kind == "AP").drop == pytest.approx(0.3 / classes, abs=0.002)
