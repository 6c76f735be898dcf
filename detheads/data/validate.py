"""A full check of one split: every annotation and every pixel, listing all problems instead of stopping at one."""

import hashlib
import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detheads.data.dataset import ImageRecord
from detheads.data.layout import Split, find_split
from detheads.data.parsed import CLIPPED, Parsed, Problem, Problems
from detheads.foundation.ahead import map_ahead
from detheads.foundation.errors import UserError
from detheads.foundation.images import ImageHeader, list_images, load_image, read_header
from detheads.foundation.progress import Progress, silent

TINY_SIDE = 16
"""Images with a shorter side, in pixels, are worth a look."""
HUGE_PIXELS = 50_000_000
"""Images with more pixels are slow to decode."""

_PLAIN_MODES = frozenset({"RGB", "L"})
_AHEAD = 64
"""Images decoded ahead: enough to keep the threads busy, few enough to stop at once."""


@dataclass(frozen=True)
class Report:
    """What a check found."""

    dataset: str
    split: str
    images: int
    boxes: int
    problems: tuple[Problem, ...]

    def count(self, severity: str) -> int:
        """How many single problems of one severity there are."""
        return sum(problem.count for problem in self.problems if problem.severity == severity)

    @property
    def usable(self) -> bool:
        """No errors; notes and warnings do not stop anything."""
        return self.count("error") == 0

    def as_json(self) -> dict[str, Any]:
        """The report with its counts as plain JSON values."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "images": self.images,
            "boxes": self.boxes,
            "usable": self.usable,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "problems": [asdict(problem) | {"file": str(problem.file)} for problem in self.problems],
        }


@dataclass(frozen=True)
class _Checked:
    """One image file after decoding."""

    image: ImageRecord
    header: ImageHeader | None
    sha256: str
    error: str


def validate_dataset(
    path: Path,
    split: str | None = None,
    on_progress: Progress = silent,
) -> Report:
    """Check one split of a dataset folder; works where ``read_dataset`` would refuse.

    Args:
        path: the dataset's folder.
        split: as for ``read_dataset``.

    Raises:
        UserError: only when there is no dataset or no such split.
    """
    found = find_split(path, split)
    try:
        parsed = found.parse()
    except UserError as error:
        sentence = str(error).removeprefix(str(found.annotations)).strip().rstrip(".")
        problem = Problem("error", found.annotations, "unreadable annotations", sentence)
        return Report(found.dataset, found.name, 0, 0, (problem,))
    problems = parsed.problems
    if not parsed.images:
        problems.add("error", parsed.source, "no images", "there are no images; a dataset needs at least one")
    _check_boxes(parsed, problems)
    _check_classes(parsed, problems)
    _check_listing(found, parsed, problems)
    by_content: dict[str, list[ImageRecord]] = defaultdict(list)
    decoded = map_ahead(_decode, parsed.images, ahead=_AHEAD, threads=os.cpu_count() or 1)
    for done, checked in enumerate(decoded, start=1):
        _check_image(checked, problems)
        if checked.sha256:
            by_content[checked.sha256].append(checked.image)
        on_progress("checking images", done, len(parsed.images))
    for same in by_content.values():
        for image in same[1:]:
            if image.path != same[0].path:
                sentence = f"the content is the same as that of {same[0].file_name}"
                problems.add("warning", image.path, "duplicate image file", sentence)
    return Report(found.dataset, found.name, len(parsed.images), len(parsed.boxes), tuple(problems.all()))


def _check_boxes(parsed: Parsed, problems: Problems) -> None:
    _, verdicts = parsed.box_verdicts()
    for reason in sorted(set(verdicts.tolist()) - {""}):
        rows = np.flatnonzero(verdicts == reason)
        image = parsed.images[parsed.image_index[rows[0]]]
        x1, y1, x2, y2 = parsed.boxes[rows[0]]
        box = f"a box of {image.file_name} from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        if reason == CLIPPED:
            problems.add("note", parsed.source, "clipped box", f"{box} is {reason}", len(rows))
        else:
            problems.add("warning", parsed.source, f"bad box: {reason}", f"{box} is dropped: {reason}", len(rows))


def _check_classes(parsed: Parsed, problems: Problems) -> None:
    counts = np.bincount(parsed.labels, minlength=len(parsed.categories))
    seen: set[str] = set()
    for category, count in zip(parsed.categories, counts, strict=True):
        if not count:
            problems.add("note", parsed.source, "class without boxes", f"class {category.name!r} has no boxes")
        if category.name in seen:
            sentence = f"two classes are called {category.name!r}"
            problems.add("warning", parsed.source, "duplicate class name", sentence)
        seen.add(category.name)


def _check_listing(split: Split, parsed: Parsed, problems: Problems) -> None:
    listed: set[Path] = set()
    for image in parsed.images:
        if image.path in listed:
            sentence = f"{image.file_name} is listed under two image ids"
            problems.add("warning", parsed.source, "image listed twice", sentence)
        listed.add(image.path)
    if split.labels is not None:
        stems = {image.path.relative_to(split.images).with_suffix("") for image in parsed.images}
        for path in sorted(split.labels.rglob("*.txt")):
            if path.relative_to(split.labels).with_suffix("") not in stems:
                problems.add("warning", path, "labels without an image", "there is no image for this label file")
        return
    unlisted = [name for name in list_images(split.images) if split.images / name not in listed]
    if unlisted:
        sentence = f"{unlisted[0]} lies in the image folder but is not listed"
        problems.add("note", parsed.source, "unlisted image file", sentence, len(unlisted))


def _decode(image: ImageRecord) -> _Checked:
    header, digest = None, ""
    try:
        header = read_header(image.path)
        content = image.path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        load_image(image.path)
    except (UserError, OSError) as error:
        sentence = str(error).removeprefix(str(image.path)).strip().rstrip(".")
        return _Checked(image, header, digest, f"the file {sentence}")
    return _Checked(image, header, digest, "")


def _check_image(checked: _Checked, problems: Problems) -> None:
    image, header = checked.image, checked.header
    if checked.error:
        problems.add("error", image.path, "unusable image", checked.error)
    if header is None:
        return
    if (header.width, header.height) != (image.width, image.height):
        sentence = (
            f"the file is {header.width}x{header.height} as displayed but its annotation says "
            f"{image.width}x{image.height}"
        )
        problems.add("error", image.path, "size mismatch", sentence)
    if min(header.width, header.height) < TINY_SIDE:
        sentence = f"the image is only {header.width}x{header.height} pixels"
        problems.add("warning", image.path, "tiny image", sentence)
    if header.width * header.height > HUGE_PIXELS:
        sentence = f"the image is {header.width}x{header.height} pixels and slow to decode"
        problems.add("warning", image.path, "huge image", sentence)
    if header.mode not in _PLAIN_MODES:
        problems.add("note", image.path, "unusual mode", f"the mode {header.mode} is converted to RGB")
    if header.rotated:
        problems.add("note", image.path, "EXIF orientation", "the image is turned as its EXIF orientation says")
