"""CVAT for images: one XML file for all pictures, which may name their subsets; boxes, turned boxes and polygons.

A turned box and a polygon become the box around them; masks, points, lines and cuboids are left out.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detheads.data.marks import Box, Mark, Marked, bounding, corners, parse_xml, whole_size

SUFFIX = ".xml"
SAYS = "an XML file of 'CVAT for images'"

_OTHER_SHAPES = frozenset({"points", "polyline", "mask", "cuboid", "ellipse", "skeleton"})


def read(path: Path) -> Iterator[Marked]:
    """The pictures of an XML file; nothing when it is another kind of XML.

    Raises:
        ValueError: the file is no XML, or annotates a video.
    """
    from globox import BoundingBox
    from globox.errors import ParsingError

    root = parse_xml(path)
    if root.tag != "annotations":
        return
    if root.find("track") is not None:
        raise ValueError("holds tracks of a video; export it as 'CVAT for images' with its frames")
    for image in root.iter("image"):
        marked = Marked(path, image.get("name") or "", whole_size(image.get("width"), image.get("height")))
        marked.split = image.get("subset")
        for number, node in enumerate(image, start=1):
            name = (node.get("label") or "").strip()
            try:
                if node.tag == "box":
                    box = _turned(corners(BoundingBox.from_cvat(node)), float(node.get("rotation") or 0))
                    marked.marks.append(Mark(name, box))
                elif node.tag == "polygon":
                    marked.marks.append(Mark(name, bounding(_points(node))))
                elif node.tag in _OTHER_SHAPES:
                    marked.left_out[node.tag] += 1
            except AssertionError:
                # Corners in the wrong order are kept as they are: such boxes are dropped, counted and judged later.
                x1, y1, x2, y2 = (float(node.get(side)) for side in ("xtl", "ytl", "xbr", "ybr"))
                marked.marks.append(Mark(name, (x1, y1, x2, y2)))
            except (ParsingError, ValueError):
                marked.bad.append(f"shape {number} of {marked.picture!r} has no whole {node.tag}")
        yield marked


def _points(node: Any) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in (node.get("points") or "").split(";"))
    return [(float(x), float(y)) for x, y in pairs]


def _turned(box: Box, degrees: float) -> Box:
    """The box around ``box`` turned about its centre."""
    if not degrees:
        return box
    x1, y1, x2, y2 = box
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    half_width = ((x2 - x1) * cosine + (y2 - y1) * sine) / 2
    half_height = ((x2 - x1) * sine + (y2 - y1) * cosine) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height
