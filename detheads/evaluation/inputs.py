"""What an evaluation is given: annotations and detections of any origin, as values or as files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from detheads.foundation.coco_results import box_fault, read_results, require_results
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json

GroundTruth: TypeAlias = "Mapping[str, Any] | str | Path"
"""A COCO annotation object, or the path of its file."""
Detections: TypeAlias = "Sequence[Mapping[str, Any]] | str | Path"
"""COCO results, or the path of their file."""

SUSPICIOUS = 0.1
"""Share of boxes from which a remark asks whether they mean something else."""


def read_ground_truth(given: GroundTruth) -> Mapping[str, Any]:
    """A COCO annotation object with the fields that an evaluation needs.

    Raises:
        UserError: naming what is missing where.
    """
    if isinstance(given, str | Path):
        source = str(given)
        if Path(given).is_dir():
            raise UserError(
                f"{given} is a folder; give its COCO annotation file, or read_dataset({source!r}, split).coco_json()."
            )
        truth = read_json(given)
    else:
        source, truth = "the ground truth", given
    if not isinstance(truth, Mapping):
        raise UserError(f"{source} is no COCO annotation object; give one with images, annotations and categories.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth.get(key), Sequence) or isinstance(truth[key], str):
            raise UserError(f"{source} has no list {key!r}; give a COCO annotation object.")
    for kind, fields in (("images", ("id",)), ("categories", ("id", "name"))):
        for index, entry in enumerate(truth[kind]):
            missing = [key for key in fields if not isinstance(entry, Mapping) or key not in entry]
            if missing or not isinstance(entry["id"], Integral):
                lacks = repr(missing[0]) if missing else "integer as 'id'"
                raise UserError(f"{source}: entry {index} of {kind!r} has no {lacks}; repair the file.")
    for kind in ("images", "categories"):
        twice = [number for number, count in Counter(entry["id"] for entry in truth[kind]).items() if count > 1]
        if twice:
            raise UserError(f"{source} lists the id {twice[0]} twice among its {kind}; give each an id of its own.")
    for index, entry in enumerate(truth["annotations"]):
        fault = box_fault(entry)
        if fault:
            raise UserError(f"{source}: annotation {index} {fault}.")
    return truth


def read_detections(given: Detections) -> Sequence[Mapping[str, Any]]:
    """COCO results with the fields that an evaluation needs.

    Raises:
        UserError: naming the entry that lacks something.
    """
    if isinstance(given, str | Path):
        return read_results(Path(given))
    if isinstance(given, Mapping):
        raise UserError("the detections are one object, not a list; give a list of COCO results.")
    require_results(given, "the detections")
    return given


def named_images(entries: Sequence[Any], truth: Mapping[str, Any]) -> list[Any]:
    """Results whose ``image_id`` is a file name, with its ending or without, given the number of that image.

    Some tools write the name where COCO has a number.
    """
    numbers: dict[str, int] = {}
    for image in truth["images"]:
        name = str(image.get("file_name", ""))
        numbers |= dict.fromkeys({name, Path(name).name, Path(name).stem}, image["id"])
    return [
        {**entry, "image_id": numbers[entry["image_id"]]}
        if isinstance(entry, Mapping) and isinstance(entry.get("image_id"), str) and entry["image_id"] in numbers
        else entry
        for entry in entries
    ]


def suspicions(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Remarks on detections that are probably not what COCO results are: corners, shares of the picture, one picture.

    Args:
        truth: COCO annotation object whose images have ``width`` and ``height``.
        detections: COCO results for its images.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"] if "width" in image}
    held = [entry for entry in detections if entry["image_id"] in sizes]
    if not held:
        return []
    boxes = np.array([entry["bbox"] for entry in held], np.float64)
    width, height = np.array([sizes[entry["image_id"]] for entry in held], np.float64).T
    remarks = []
    if boxes.max() <= 1.5:
        remarks.append(
            "no coordinate of the detections exceeds 1.5: they look like shares of the picture, and bbox is in pixels"
        )
    # Read as corners every box lies in its picture; read as sizes many do not.
    beyond = (boxes[:, 0] + boxes[:, 2] > 1.02 * width) | (boxes[:, 1] + boxes[:, 3] > 1.02 * height)
    corners = (boxes[:, 2:] >= boxes[:, :2]).all() and (boxes[:, 2] <= 1.02 * width).all()
    if beyond.mean() >= SUSPICIOUS and corners and (boxes[:, 3] <= 1.02 * height).all():
        remarks.append(
            f"{int(beyond.sum())} of {len(boxes)} boxes leave their picture when bbox is read as x, y, width, height, "
            "and none when it is read as two corners: they look like x1, y1, x2, y2"
        )
    elif beyond.mean() >= SUSPICIOUS:
        remarks.append(
            f"{int(beyond.sum())} of {len(boxes)} boxes leave their picture: they look like pixels of another size, "
            "such as the model's input"
        )
    silent = len(truth["images"]) - len({entry["image_id"] for entry in detections})
    if silent > len(truth["images"]) / 2:
        remarks.append(
            f"{silent} of {len(truth['images'])} pictures have no detection at all; their objects count as missed"
        )
    return remarks
