"""A full check of a dataset: every annotation and every pixel, listing all problems instead of stopping at one, and a
judgement of the whole."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detheads.data.dataset import ImageRecord
from detheads.data.duplicates import Fingerprint, fingerprint
from detheads.data.findings import Finding
from detheads.data.foreign import find_foreign
from detheads.data.judgement import judge_splits
from detheads.data.layout import Convention, Split, find_split, find_splits
from detheads.data.misreadings import Stated
from detheads.data.parsed import CLIPPED, Parsed, Problem, Problems
from detheads.data.pictures import check_picture
from detheads.data.repeats import Picture, Repeats, find_repeats, judge_repeats
from detheads.foundation.ahead import map_ahead
from detheads.foundation.atomic import sha256_of
from detheads.foundation.cores import available_cores
from detheads.foundation.errors import UserError
from detheads.foundation.images import ImageHeader, load_image, read_header
from detheads.foundation.progress import Progress, silent

TINY_SIDE = 16
"""Images with a shorter side, in pixels, are worth a look."""
HUGE_PIXELS = 50_000_000
"""Images with more pixels are slow to decode."""

_PLAIN_MODES = frozenset({"RGB", "L"})
_AHEAD = 64
"""Images decoded ahead: enough to keep the threads busy, few enough to stop at once."""


@dataclass(frozen=True)
class SplitReport:
    """What was found in one split."""

    split: str
    images: int
    boxes: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Report:
    """What a check found."""

    dataset: str
    splits: tuple[SplitReport, ...]
    findings: tuple[Finding, ...]
    """What is thought of the whole."""
    repeats: Repeats
    size: tuple[int, int] | None
    """Height and width of the input that small objects were judged for."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of all splits."""
        return tuple(problem for part in self.splits for problem in part.problems)

    def count(self, severity: str) -> int:
        """How many single problems and judgements of one severity there are."""
        problems = sum(problem.count for problem in self.problems if problem.severity == severity)
        return problems + sum(finding.severity == severity for finding in self.findings)

    @property
    def usable(self) -> bool:
        """No errors; notes and warnings do not stop anything."""
        return self.count("error") == 0

    def as_json(self) -> dict[str, Any]:
        """The report with its counts as plain JSON values."""
        return {
            "dataset": self.dataset,
            "input_size": list(self.size) if self.size is not None else None,
            "images": sum(part.images for part in self.splits),
            "boxes": sum(part.boxes for part in self.splits),
            "usable": self.usable,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "splits": [
                {
                    "split": part.split,
                    "images": part.images,
                    "boxes": part.boxes,
                    "problems": [asdict(problem) | {"file": str(problem.file)} for problem in part.problems],
                }
                for part in self.splits
            ],
            "judgement": [asdict(finding) for finding in self.findings],
            "equal_pictures": _named(self.repeats.equal),
            "nearly_equal_pictures": _named(self.repeats.near),
        }


def _named(groups: Sequence[Sequence[Picture]]) -> list[list[dict[str, str]]]:
    return [[{"split": split, "file": str(path)} for split, path in group] for group in groups]


@dataclass(frozen=True)
class _Checked:
    """One image file after decoding."""

    image: ImageRecord
    header: ImageHeader | None
    print: Fingerprint | None
    error: str
    remarks: tuple[str, ...] = ()
    """Sentences about its pixels and frames."""


def validate_dataset(
    path: str | Path,
    split: str | None = None,
    *,
    format_name: str | None = None,
    size: tuple[int, int] | None = None,
    on_progress: Progress = silent,
) -> Report:
    """Check the splits of a dataset folder; works where ``read_dataset`` would refuse.

    A few hundred bytes are kept of each picture.

    Args:
        path: the dataset's folder.
        split: the only split to check; all of them without it.
        format_name: a format of another tool (:func:`detheads.data.foreign.known_formats`); without it, the layout is
            found out.
        size: height and width in pixels of the model's input, for which small objects are judged.

    Raises:
        UserError: only when there is no dataset or no such split.
    """
    found, convention = _find(Path(path), split, format_name)
    parsed = [_parse(part) for part in found]
    total = sum(len(part.images) for part in parsed if isinstance(part, Parsed))
    reports: list[SplitReport] = []
    stated: list[Stated] = []
    prints: dict[Picture, Fingerprint] = {}  # a picture that is listed twice is checked twice and kept once
    done = 0
    for place, part in zip(found, parsed, strict=True):
        if isinstance(part, Problem):
            reports.append(SplitReport(place.name, 0, 0, (part,)))
            continue
        problems = part.problems
        if not part.images:
            problems.add("error", part.source, "no images", "there are no images; a dataset needs at least one")
        _check_boxes(part, problems)
        _check_classes(part, problems)
        _check_listing(part, problems)
        for checked in map_ahead(_decode, part.images, ahead=_AHEAD, threads=available_cores()):
            _check_image(checked, problems)
            if checked.print is not None:
                prints[place.name, checked.image.path] = checked.print
            done += 1
            on_progress("checking images", done, total)
        reports.append(SplitReport(place.name, len(part.images), len(part.boxes), tuple(problems.all())))
        stated.append(Stated(place.name, part, convention(place)))
    repeats = find_repeats(prints)
    findings = (*judge_splits(stated, size), *judge_repeats(repeats))
    ordered = sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))
    return Report(found[0].dataset, tuple(reports), tuple(ordered), repeats, size)


def _find(path: Path, split: str | None, format_name: str | None) -> tuple[list[Split], Callable[[Split], Convention]]:
    """The splits to check, and how their files state boxes."""
    if format_name is None:
        found = [find_split(path, split)] if split is not None else list(find_splits(path).values())
        return found, lambda place: place.convention
    found = find_foreign(path, format_name)
    chosen = [place for place in found if split is None or place.name == split]
    if not chosen:
        raise UserError(f"{path} has no split {split!r}; it has {', '.join(place.name for place in found)}.")
    return chosen, lambda _: "corners"


def _parse(place: Split) -> Parsed | Problem:
    try:
        return place.parse()
    except UserError as error:
        sentence = str(error).removeprefix(str(place.annotations)).strip().rstrip(".")
        return Problem("error", place.annotations, "unreadable annotations", sentence)


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


def _check_listing(parsed: Parsed, problems: Problems) -> None:
    if parsed.unlisted:
        sentence = f"{parsed.unlisted[0]} lies in the image folder but is not listed"
        problems.add("note", parsed.source, "unlisted image file", sentence, len(parsed.unlisted))


def _decode(image: ImageRecord) -> _Checked:
    header = None
    remarks: list[str] = []
    try:
        header = read_header(image.path)
        picture = load_image(image.path, remarks.append)
        return _Checked(image, header, fingerprint(picture, sha256_of(image.path)), "", tuple(remarks))
    except (UserError, OSError) as error:
        sentence = str(error).removeprefix(str(image.path)).strip().rstrip(".")
        return _Checked(image, header, None, f"the file {sentence}")


def _check_image(checked: _Checked, problems: Problems) -> None:
    image, header = checked.image, checked.header
    if checked.error:
        problems.add("error", image.path, "unusable image", checked.error)
    if header is None:
        return
    for remark in checked.remarks:
        sentence = remark.removeprefix(str(image.path)).strip().rstrip(".")
        problems.add("warning", image.path, "pixels or frames", f"the file {sentence}")
    try:
        check_picture(image, header)
    except UserError as error:
        sentence = str(error).removeprefix(str(image.path)).strip().rstrip(".")
        problems.add("error", image.path, "size mismatch", f"the file {sentence}")
    if min(header.width, header.height) < TINY_SIDE:
        sentence = f"the image is only {header.width}x{header.height} pixels"
        problems.add("warning", image.path, "tiny image", sentence)
    if header.width * header.height > HUGE_PIXELS:
        sentence = f"the image is {header.width}x{header.height} pixels and slow to decode"
        problems.add("warning", image.path, "huge image", sentence)
    if header.mode not in _PLAIN_MODES and not checked.error:
        problems.add("note", image.path, "unusual mode", f"the mode {header.mode} is converted to RGB")
    if header.rotated:
        problems.add("note", image.path, "EXIF orientation", "the image is turned as its EXIF orientation says")
