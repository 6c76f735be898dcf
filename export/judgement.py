"""When a proof holds."""

from collections.abc import Sequence

import numpy as np

from detheads.export.matching import Comparison, TensorDifference
from detheads.export.proof import Proof
from detheads.export.report import ArtefactResult
from detheads.foundation.manifest import Thresholds

CACHE_REMARK = 0.01
"""Difference between cache and live mAP that deserves a note; it says nothing about the artefact."""

ROUNDING = 1e-12
"""By which the difference of two APs may exceed the tolerance that it equals on paper."""


def reasons(
    artefacts: Sequence[ArtefactResult],
    odd: Comparison,
    tensors: TensorDifference,
    live_detections: int,
    proof: Proof,
) -> list[str]:
    """Why the proof fails; empty when it holds.

    Args:
        odd: both sides on pictures of extreme shape.
        live_detections: number of PyTorch's own detections on all images.
    """
    found = []
    for artefact in artefacts:
        where = f"{artefact.file} at batch {artefact.batch}"
        if not abs(artefact.map_drop) <= proof.max_map_drop + ROUNDING:
            found.append(f"{where}: mAP differs by {artefact.map_drop:+.4f}, allowed is {proof.max_map_drop:g}")
        for name, comparison in (("PyTorch", artefact.versus_live), ("its own batch of 1", artefact.versus_single)):
            if comparison.share < proof.min_matched:
                found.append(
                    f"{where}: only {100 * comparison.share:.2f} % of detections match those of {name}, "
                    f"required are {100 * proof.min_matched:g} %"
                )
    if odd.share < proof.min_matched:
        found.append(f"images of extreme shape: only {100 * odd.share:.2f} % of detections match")
    if not np.isfinite([tensors.boxes, tensors.scores]).all():
        found.append("the artefact gives numbers that are not finite")
    if live_detections == 0:
        found.append("PyTorch itself detects nothing on these images, so equality proves nothing; train longer")
    return found


def full_remarks(full: int, images: int, thresholds: Thresholds) -> list[str]:
    """A note when tables of detections are full."""
    if not full:
        return []
    return [
        f"{full} of {images} images have a full table of {thresholds.max_detections} detections, so that more may be "
        f"found than are returned; export with a larger --max-detections, or a --score above {thresholds.score:g}"
    ]


def cache_remarks(map_cache: float | None, map_live: float) -> list[str]:
    """A note when the head's AP on the feature cache is not that on the image files; both in 0..1."""
    if map_cache is None or abs(map_live - map_cache) <= CACHE_REMARK:
        return []
    return [
        f"the figure from the feature cache differs by {map_live - map_cache:+.4f}: it was measured on other images, "
        "or the cache's storage type costs accuracy"
    ]
