"""LabelMe: one JSON file a picture; rectangles, polygons, masks and circles become the box around them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detheads.data.marks import Box, Mark, Marked, corners, whole_size
from detheads.foundation.reading import read_json

SUFFIX = ".json"
SAYS = "LabelMe JSON files"

_AREAS = frozenset({"rectangle", "polygon", "mask"})


def read(path: Path) -> Iterator[Marked]:
    """The picture of one JSON file; nothing when it is another kind of JSON."""
    from globox import BoundingBox
    from globox.errors import ParsingError

    document = read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list) or "imagePath" not in document:
        return
    size = whole_size(document.get("imageWidth"), document.get("imageHeight"))
    marked = Marked(path, str(document["imagePath"]), size, alias=path.stem)
    for number, shape in enumerate(document["shapes"], start=1):
        try:
            kind = shape.get("shape_type") or "polygon"  # as LabelMe itself takes it
            if kind in _AREAS:
                box = BoundingBox.from_labelme(shape)
                marked.marks.append(Mark(box.label.strip(), corners(box)))
            elif kind == "circle":
                marked.marks.append(Mark(str(shape["label"]).strip(), _circle(shape["points"])))
            else:
                marked.left_out[str(kind)[:30]] += 1
        except (ParsingError, AssertionError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
            marked.bad.append(f"shape {number} has no label or no usable points")
    yield marked


def _circle(points: Any) -> Box:
    """A circle is its centre and a point on it."""
    (x, y), (at_x, at_y) = points
    radius = math.hypot(at_x - x, at_y - y)
    return float(x - radius), float(y - radius), float(x + radius), float(y + radius)
