"""Precision-recall curves of scenes worked out by hand."""

import pytest

from detheads.evaluation.coco import judge_at
from detheads.report.curves import CURVE_IOUS, measure_curves, read_curves
from tests.report.scenes import dataset, found


def test_the_curve_of_one_missed_object_ends_half_way() -> None:
    known = dataset([[(0, (0, 0, 10, 10)), (0, (50, 50, 60, 60))]])
    shifted = found(known, 0, 0, (0, 0, 10, 6), 0.9)  # IoU 0.6
    loose, strict = measure_curves(judge_at(known.coco_json(), [shifted], CURVE_IOUS))
    assert (loose.highest_recall, strict.highest_recall) == (0.5, 0.0)
    assert loose.precision == pytest.approx([1.0] * 51 + [0.0] * 50)
    assert loose.average_precision == pytest.approx(51 / 101)
    assert strict.precision == [0.0] * 101
    silent = measure_curves(judge_at(known.coco_json(), [], CURVE_IOUS))
    assert [curve.highest_recall for curve in silent] == [0, 0]


def test_without_objects_there_is_no_curve() -> None:
    bare = dataset([[]])
    curves = measure_curves(judge_at(bare.coco_json(), [found(bare, 0, 0, (0, 0, 9, 9), 0.5)], CURVE_IOUS))
    assert [(curve.precision, curve.highest_recall, curve.average_precision) for curve in curves] == [(None,) * 3] * 2
    assert "no object" in read_curves(curves)
