"""What a fitted detector does on a feature cache, in numbers that go into JSON as they are.

Undefined values (the AUC of a class without cells) are None.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchvision.ops import box_iou

from detheads.analytical.anchors import nearest_anchor, sides_of
from detheads.analytical.assignment import assign_cells
from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.estimators import RidgePoint
from detheads.analytical.passes import BATCH
from detheads.analytical.solve import sweep_anchors
from detheads.analytical.statistics import Statistics
from detheads.cache.reader import FeatureCache
from detheads.foundation.progress import Progress

SCORE_BINS = 60
OVERLAP_BINS = 20

BACKGROUND_VALUES = 4_000_000
"""Log-odds of background cells that are kept, at most: beyond, cells are drawn at random (seeded)."""

IMPOSSIBLE = -1e8
"""A mixture gives log-odds below this where a class has no Gaussian; they would stretch a histogram to nothing."""


@dataclass(frozen=True)
class Separation:
    """How the first stage's log-odds of one class tell the cells of its objects from background cells.

    Attributes:
        name: the class.
        edges: ``[SCORE_BINS + 1]`` log-odds; the outermost bins also hold what lies beyond.
        objects, background: ``[SCORE_BINS]`` numbers of cells.
        auc: share of pairs of an object cell and a background cell that are in the right order.
        above_median: share of background cells above the median object cell.
    """

    name: str
    edges: list[float]
    objects: list[int]
    background: list[int]
    auc: float | None
    above_median: float | None


@dataclass(frozen=True)
class AnchorUse:
    """An anchor, its sides in input pixels, and for how many objects it is the best."""

    width: float
    height: float
    objects: int


@dataclass(frozen=True)
class Coverage:
    """How well the anchor shapes fit the objects of a cache.

    Attributes:
        objects: their number, crowd regions left out.
        edges: ``[OVERLAP_BINS + 1]`` IoU.
        counts: ``[OVERLAP_BINS]`` objects by IoU with their best anchor's shape, both centred on one point.
        at_half, at_seven_tenths: share of objects whose IoU is at least 0.5, 0.7.
        anchors: every anchor.
    """

    objects: int
    edges: list[float]
    counts: list[int]
    at_half: float | None
    at_seven_tenths: float | None
    anchors: list[AnchorUse]


@dataclass(frozen=True)
class RidgeCurve:
    """The anchor classifier of one level on its training rows, by ridge penalty.

    Attributes:
        stride: input pixels a cell.
        cells: training rows.
        r2: for each penalty the share of the scatter of all anchors together that is explained; None where every cell
            takes the same anchor.
        degrees_of_freedom: for each penalty, intercept not counted.
    """

    level: int
    stride: int
    cells: int
    r2: list[float | None]
    degrees_of_freedom: list[float]


@torch.inference_mode()
def measure_separation(head: ClosedForm, cache: FeatureCache, on_progress: Progress) -> tuple[list[Separation], float]:
    """The separation of each class, and the share of background cells that it was measured on."""
    values = len(cache) * len(head.points) * head.num_classes
    share = min(1.0, BACKGROUND_VALUES / values)
    generator = torch.Generator().manual_seed(0)
    background: list[Tensor] = []
    objects: list[list[Tensor]] = [[torch.zeros(0)] for _ in range(head.num_classes)]
    for start in range(0, len(cache), BATCH):
        images = range(start, min(start + BATCH, len(cache)))
        _, logits = head.proposals(cache.features(images))
        for own, image in zip(logits, images, strict=True):
            target = cache.targets(image)
            owner = assign_cells(head.points, head.strides, target.boxes)
            free, taken = own[owner < 0], own[owner >= 0]
            background.append(free if share == 1 else free[torch.rand(len(free), generator=generator) < share])
            labels = target.labels[owner[owner >= 0]]
            for label in labels.unique().tolist():
                objects[label].append(taken[labels == label, label])
        on_progress("log-odds", images[-1] + 1, len(cache))
    columns = torch.cat(background).T.numpy()
    return [
        _separation(name, torch.cat(cells).numpy(), column)
        for name, cells, column in zip(cache.dataset.class_names, objects, columns, strict=True)
    ], share


def _separation(name: str, objects: NDArray[np.float32], background: NDArray[np.float32]) -> Separation:
    """``objects [P]`` and ``background [Q]`` are log-odds of the class."""
    edges = _edges([objects, background])
    inside, outside = (np.histogram(values.clip(edges[0], edges[-1]), edges)[0] for values in (objects, background))
    auc = above = None
    if len(objects) and len(background):
        labels = np.repeat([1, 0], [len(objects), len(background)])
        auc = float(roc_auc_score(labels, np.concatenate([objects, background])))
        above = float((background > np.median(objects)).mean())
    return Separation(name, edges.tolist(), inside.tolist(), outside.tolist(), auc, above)


def _edges(groups: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """``[SCORE_BINS + 1]`` bin edges that span all but the outermost thousandths of each group."""
    plausible = [values[values > IMPOSSIBLE] for values in groups]
    spans = [np.quantile(values, (0.001, 0.999)) for values in plausible if len(values)]
    low = min((float(span[0]) for span in spans), default=0.0)
    high = max((float(span[1]) for span in spans), default=0.0)
    return np.linspace(low, high, SCORE_BINS + 1) if low < high else np.linspace(low - 1, low + 1, SCORE_BINS + 1)


def measure_coverage(anchors: Tensor, boxes: Tensor) -> Coverage:
    """How anchors ``[A, 2]`` (width, height) fit the shapes of boxes ``[M, 4]`` xyxy, both in input pixels."""
    nearest = nearest_anchor(boxes, anchors)
    shapes = torch.cat((torch.zeros(len(anchors), 2), anchors), dim=1)
    sides = sides_of(boxes)
    overlaps = box_iou(torch.cat((torch.zeros_like(sides), sides), dim=1), shapes)  # [M, A]
    best = overlaps.gather(1, nearest[:, None]).squeeze(1).numpy()
    counts, edges = np.histogram(best, bins=OVERLAP_BINS, range=(0, 1))
    at_half, at_seven_tenths = (float((best >= iou).mean()) if len(best) else None for iou in (0.5, 0.7))
    uses = [
        AnchorUse(width, height, taken)
        for (width, height), taken in zip(
            anchors.tolist(), nearest.bincount(minlength=len(anchors)).tolist(), strict=True
        )
    ]
    return Coverage(len(boxes), edges.tolist(), counts.tolist(), at_half, at_seven_tenths, uses)


def measure_ridges(statistics: Statistics, head: ClosedForm, alphas: Sequence[float]) -> list[RidgeCurve]:
    """A curve for each level with more than one training row.

    Warns:
        UserWarning: when a penalty was raised because the problem is singular.
    """
    swept = sweep_anchors(statistics, alphas)
    curves = []
    for level, (moments, stride) in enumerate(zip(statistics.anchors, head.level_strides, strict=True)):
        points = swept.get(f"anchor_level{level}")
        if points:
            r2 = [_overall_r2(point, moments.target_scatter()) for point in points]
            freedom = [point.degrees_of_freedom for point in points]
            curves.append(RidgeCurve(level, int(stride), round(moments.total), r2, freedom))
    return curves


def _overall_r2(point: RidgePoint, scatter: Tensor) -> float | None:
    """R^2 of all targets together: each target's, weighted by its scatter ``[m]``."""
    total = float(scatter.sum())
    return float(point.r2 @ scatter) / total if total > 0 else None
