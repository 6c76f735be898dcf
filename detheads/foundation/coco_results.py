"""Detections in COCO's result format. Torch-free."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
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
    require_results(entries, str(path))
    return entries


def require_results(entries: Iterable[Any], source: str) -> None:
    """Refuse entries that are no COCO results.

    Args:
        source: where they come from, for the message.

    Raises:
        UserError: naming the first such entry and what it lacks.
    """
    for index, entry in enumerate(entries):
        fault = box_fault(entry) or _score_fault(entry)
        if fault:
            raise UserError(f"{source}: detection {index} {fault}; write COCO results again.")


def box_fault(entry: Any) -> str | None:
    """What is wrong with the image, class or box of a COCO result or annotation, or None."""
    if not isinstance(entry, Mapping):
        return "is not an object"
    for key in ("image_id", "category_id"):
        if not isinstance(entry.get(key), Integral) or isinstance(entry[key], bool):
            return f"has no integer {key!r}"
    bbox = entry.get("bbox")
    if not isinstance(bbox, Sequence | np.ndarray) or len(bbox) != 4 or not all(map(_is_finite, bbox)):
        return "has no 'bbox' of four finite numbers"
    if bbox[2] < 0 or bbox[3] < 0:
        return "has a 'bbox' of negative width or height (it reads x, y, width, height)"
    return None


def _score_fault(entry: Mapping[str, Any]) -> str | None:
    if "score" not in entry:
        return "has no 'score', so it is an annotation and not a result"
    return None if _is_finite(entry["score"]) else "has no finite number as 'score'"


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
