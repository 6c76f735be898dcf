"""Label Studio: a JSON list of tasks (JSON or JSON-MIN), boxes and polygons in percent of the picture.

A polygon becomes the box around it, and so does a turned box, which is turned about its upper left corner. Of several
annotations of a task the first one that was not cancelled counts.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from detheads.data.marks import Mark, Marked, bounding, whole_size
from detheads.foundation.reading import read_json

SUFFIX = ".json"
SAYS = "a JSON export of Label Studio"

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""
_BOXES = ("rectanglelabels", "polygonlabels")


def read(path: Path) -> Iterator[Marked]:
    """The pictures of one JSON file; nothing when it is another kind of JSON."""
    document = read_json(path)
    if not isinstance(document, list) or not all(isinstance(task, dict) for task in document):
        return
    for task in document:
        data = task.get("data", task)
        picture = next((data[key] for key in ("image", "img", "picture") if isinstance(data.get(key), str)), None)
        if picture is None:
            return
        name = _file(picture)
        marked = Marked(path, name, alias=_UPLOAD.sub("", name.rpartition("/")[2]))
        for number, result in enumerate(_results(task), start=1):
            try:
                _add(marked, result)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                marked.bad.append(f"region {number} of {marked.picture!r} has no class or no usable shape")
        yield marked


def _file(picture: str) -> str:
    """The file that an address means: ``/data/local-files/?d=a/b.jpg``, ``/data/upload/1/0123abcd-b.jpg``, a URL."""
    parts = urlsplit(picture)
    local = re.search(r"(?:^|&)d=([^&]*)", parts.query)
    return unquote(local[1] if local else parts.path)


def _results(task: dict[str, Any]) -> list[dict[str, Any]]:
    if "annotations" not in task and "completions" not in task:  # JSON-MIN keeps the regions under the control's name
        return [
            region
            for value in task.values()
            if isinstance(value, list)
            for region in value
            if isinstance(region, dict) and any(kind in region for kind in _BOXES)
        ]
    annotations = task.get("annotations") or task.get("completions") or []
    kept = (one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled"))
    return list(next(kept, {}).get("result") or [])


def _add(marked: Marked, result: dict[str, Any]) -> None:
    value = result.get("value", result)
    kind = next((kind for kind in _BOXES if kind in value), None)
    if kind is None:
        if "type" in result and result["type"] not in {"choices", "textarea", "rating"}:
            marked.left_out[str(result["type"])[:30]] += 1
        return
    width, height = float(result["original_width"]), float(result["original_height"])
    marked.size = marked.size or whole_size(width, height)
    if kind == "polygonlabels":
        points = [(float(x) * width / 100, float(y) * height / 100) for x, y in value["points"]]
    else:
        x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
        across, down = float(value["width"]) * width / 100, float(value["height"]) * height / 100
        angle = math.radians(float(value.get("rotation") or 0))
        cosine, sine = math.cos(angle), math.sin(angle)
        sides = ((0.0, 0.0), (across, 0.0), (across, down), (0.0, down))
        points = [(x + u * cosine - v * sine, y + u * sine + v * cosine) for u, v in sides]
    (name,) = value[kind]
    marked.marks.append(Mark(str(name).strip(), bounding(points)))
