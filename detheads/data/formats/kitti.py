"""KITTI: one text file a picture, an object a line, corners in pixels; ``DontCare`` regions are left out."""

from collections.abc import Iterator
from pathlib import Path

from detheads.data.marks import Mark, Marked
from detheads.foundation.reading import read_text

SUFFIX = ".txt"
SAYS = "KITTI text files"

_NUMBERS = 14
"""Of truncation, occlusion, angle, box (4), dimensions (3), place (3) and rotation; results have a score too."""


def read(path: Path) -> Iterator[Marked]:
    """The picture of one text file; nothing when no line of it is of this format."""
    marked = Marked(path, path.stem)
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        words = line.split()
        numbers: list[float] = []
        for word in reversed(words[-_NUMBERS - 1 :]):
            try:
                numbers.insert(0, float(word))
            except ValueError:
                break
        name = " ".join(words[: len(words) - len(numbers)])
        if len(numbers) not in {_NUMBERS, _NUMBERS + 1} or not name:
            marked.bad.append(f"line {number} is not a class and {_NUMBERS} numbers")
        elif name == "DontCare":
            marked.left_out["DontCare region"] += 1
        else:
            x1, y1, x2, y2 = numbers[3:7]
            marked.marks.append(Mark(name, (x1, y1, x2, y2)))
    if not lines or len(marked.bad) < len(lines):
        yield marked
