"""Detections in COCO's result format. Torch-free."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.foundation.errors import UserError
from detheads.foundation.geometry import has_area
from detheads.foundation.reading import read_json


def to_coco_results(
    image_id: int,
    boxes: NDArray[np.floating[Any]],
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """The detections of one image as COCO result entries (xywh).

    Args:
        image_id: the dataset's own id.
        boxes: ``[D, 4]`` xyxy in original-image pixels.
        scores: ``[D]``; rows with score 0 are unused and left out, as are boxes without area.
        labels: ``[D]`` class indices.
        category_ids: the dataset's own category id of each class index.
    """
    used = (scores > 0) & has_area(boxes)
    corners = boxes[used].astype(np.float64)
    xywh = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": bbox, "score": score}
        for bbox, score, label in zip(xywh.tolist(), scores[used].tolist(), labels[used].tolist(), strict=True)
    ]


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read a COCO result file: a list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``.

    Raises:
        UserError: when the file is missing, not JSON, or an entry is not of that form; it names the entry.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise UserError(f"{path} holds no list of detections; give a COCO result file, not an annotation file.")
    for index, entry in enumerate(entries):
        fault = _fault(entry)
        if fault:
            raise UserError(f"{path}: detection {index} {fault}; write the file again.")
    return entries


def _fault(entry: Any) -> str | None:
    """What is wrong with a result entry, or None."""
    if not isinstance(entry, dict):
        return "is not an object"
    for key in ("image_id", "category_id"):
        if not isinstance(entry.get(key), int) or isinstance(entry[key], bool):
            return f"has no integer {key!r}"
    if not _is_finite(entry.get("score")):
        return "has no finite number as 'score'"
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_finite, bbox)):
        return "has no 'bbox' of four finite numbers"
    if bbox[2] < 0 or bbox[3] < 0:
        return "has a 'bbox' of negative width or height"
    return None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
