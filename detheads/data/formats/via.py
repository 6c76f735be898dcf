"""VGG Image Annotator (VIA 2): one JSON file for all pictures; the class is a region's only attribute, or its name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detheads.data.marks import Mark, Marked, bounding, corners
from detheads.foundation.reading import read_json

SUFFIX = ".json"
SAYS = "a JSON file of the VGG Image Annotator"

_CLASS_KEYS = ("label_id", "label", "class", "name", "type")


def read(path: Path) -> Iterator[Marked]:
    """The pictures of one JSON file; nothing when it is another kind of JSON."""
    from globox import BoundingBox
    from globox.errors import ParsingError

    document = read_json(path)
    entries = document.get("_via_img_metadata", document) if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        return
    for entry in entries.values():
        if not isinstance(entry, dict) or not {"filename", "regions"} <= entry.keys():
            return
        marked = Marked(path, str(entry["filename"]))
        regions = entry["regions"]
        for number, region in enumerate(regions.values() if isinstance(regions, dict) else regions or (), start=1):
            try:
                key = _class_key(region["region_attributes"])
                shape = region["shape_attributes"]
                if shape["name"] == "rect":
                    box = BoundingBox.from_via_json(region, label_key=key, confidence_key="")
                    marked.marks.append(Mark(str(box.label).strip(), corners(box)))
                elif shape["name"] == "polygon":
                    points = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
                    marked.marks.append(Mark(str(region["region_attributes"][key]).strip(), bounding(points)))
                else:
                    marked.left_out[str(shape["name"])[:30]] += 1
            except (ParsingError, AssertionError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
                marked.bad.append(f"region {number} of {marked.picture!r} has no class or no usable shape")
        yield marked


def _class_key(attributes: dict[str, Any]) -> str:
    """The attribute that names the class.

    Raises:
        KeyError: there are several, and none is called like one.
    """
    if len(attributes) == 1:
        return next(iter(attributes))
    return next((key for key in _CLASS_KEYS if key in attributes), "")
