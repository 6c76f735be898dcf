"""Detections on their way into files, picture after picture: JSON lines, CSV, COCO results."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.detections import Detections
from detheads.deploy.inputs import RESULTS_NAME

Format = Literal["coco", "jsonl", "csv"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
NAMES: Final[dict[Format, str]] = {"coco": RESULTS_NAME, "jsonl": "detections.jsonl", "csv": "detections.csv"}
"""The file of each form of results."""

COLUMNS: Final = ("image", "id", "time", "track", "name", "label", "score", "x1", "y1", "x2", "y2")
"""Of a CSV file, a row for each detection. ``time`` and ``track`` are empty where there are none."""


@dataclass(frozen=True)
class Record:
    """A picture or frame, and what was found in it.

    Attributes:
        id: of the image in COCO results.
        name: of the picture: its path below the given folder; of a frame's video.
        width, height: as a viewer shows it, pixels.
        found: boxes in those pixels.
        tracks: ``[n]`` number of the object that each detection is of, the same over the frames of a video, from 1; -1
            for none.
        time: of a frame in its video, seconds.
    """

    id: int
    name: str
    width: int
    height: int
    found: Detections
    tracks: NDArray[np.int64] | None = None
    time: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """What a line of JSON says: ``image``, ``id``, ``width``, ``height``, for frames ``time``, ``detections`` (best
        first, each with ``name``, ``label``, ``score``, ``box`` xyxy, where tracked ``track``) and ``full``."""
        answer = self.found.to_dict()
        if self.tracks is not None:
            for entry, track in zip(answer["detections"], self.tracks.tolist(), strict=True):
                if track > 0:
                    entry["track"] = track
        time = {} if self.time is None else {"time": self.time}
        return {"image": self.name, "id": self.id, "width": self.width, "height": self.height, **time, **answer}


class Writer(Protocol):
    """A file of results in the making. What it has written before :meth:`close` may lack its end."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """A line of JSON for each picture, also for those without detections; each is there as soon as it is written."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("w", encoding="utf-8")

    def write(self, record: Record) -> None:
        self._stream.write(json.dumps(record.to_dict(), allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class Csv:
    """A row for each detection, under :data:`COLUMNS`. Bytes of a name that are not UTF-8 become their escapes."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._rows = csv.writer(self._stream, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write(self, record: Record) -> None:
        picture = (record.name, record.id, "" if record.time is None else record.time)
        for entry in record.to_dict()["detections"]:
            row = (entry.get("track", ""), entry["name"], entry["label"], entry["score"], *entry["box"])
            self._rows.writerow((*picture, *row))

    def close(self) -> None:
        self._stream.close()


class CocoResults:
    """One JSON list of COCO result entries (xywh); never held in memory.

    Args:
        category_ids: the category id of each class index.
    """

    def __init__(self, path: Path, category_ids: list[int]) -> None:
        self._stream = path.open("w", encoding="utf-8")
        self._ids = category_ids
        self._separator = "["

    def write(self, record: Record) -> None:
        entries = record.found.to_coco(record.id, self._ids)
        if entries:
            self._stream.write(self._separator + json.dumps(entries, allow_nan=False)[1:-1])
            self._separator = ", "

    def close(self) -> None:
        self._stream.write("[]\n" if self._separator == "[" else "]\n")
        self._stream.close()


def open_writer(form: Format, path: Path, category_ids: list[int]) -> Writer:
    """A new file of results of that form; ``category_ids`` as in :class:`CocoResults`."""
    if form == "coco":
        return CocoResults(path, category_ids)
    return JsonLines(path) if form == "jsonl" else Csv(path)
