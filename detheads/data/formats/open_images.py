"""Open Images: a CSV file with a row for each box, in shares of the picture; groups (``IsGroupOf``) are crowds.

``*class-descriptions*.csv`` beside it gives the classes their names.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from detheads.data.marks import Mark, Marked
from detheads.foundation.reading import read_text

SUFFIX = ".csv"
SAYS = "Open Images CSV files"

_COLUMNS = ("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax")


def read(path: Path) -> Iterator[Marked]:
    """The pictures of one CSV file; nothing when it has other columns.

    Raises:
        ValueError: the file is no CSV.
    """
    rows = csv.DictReader(io.StringIO(read_text(path)))
    pictures: dict[str, Marked] = {}
    try:
        if not set(_COLUMNS) <= set(rows.fieldnames or ()):
            return
        names = _class_names(path.parent)
        for number, row in enumerate(rows, start=2):
            marked = pictures.setdefault(row["ImageID"], Marked(path, row["ImageID"], split=_split(path), shares=True))
            try:
                x1, y1, x2, y2 = (float(row[column]) for column in _COLUMNS[2:])
            except (TypeError, ValueError):
                marked.bad.append(f"row {number} has no four numbers {', '.join(_COLUMNS[2:])}")
                continue
            label = row["LabelName"] or ""
            marked.marks.append(Mark(names.get(label, label).strip(), (x1, y1, x2, y2), row.get("IsGroupOf") == "1"))
    except csv.Error as error:
        raise ValueError(f"is not readable CSV ({error})") from None
    yield from pictures.values()


def _class_names(folder: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for path in sorted(folder.glob("*class-descriptions*.csv")):
        names |= {row[0]: row[1] for row in csv.reader(io.StringIO(read_text(path))) if len(row) == 2}
    return names


def _split(path: Path) -> str | None:
    """Open Images calls its files after their splits: ``validation-annotations-bbox.csv``."""
    first = path.stem.partition("-")[0]
    return first if first in {"train", "validation", "test"} else None
