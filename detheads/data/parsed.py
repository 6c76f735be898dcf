"""Annotations as a reader found them: nothing dropped yet, problems listed instead of raised.

The readers refuse the first problem; ``validate`` lists them all. Both start from this one parse.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detheads.data.dataset import Category, Dataset, ImageRecord, Objects
from detheads.foundation.errors import UserError

Severity = Literal["error", "warning", "note"]

NOT_FINITE = "not finite"
NO_SIZE = "zero or negative size"
OUTSIDE = "outside the image"
CLIPPED = "clipped to the image"

ROUNDING = 0.5
"""A box may stick out by this many pixels before clipping it counts: datasets round their numbers."""


@dataclass(frozen=True)
class Problem:
    """One kind of problem in one file: the sentence describes its first case, ``count`` says how many there are.

    An *error* stops a reader or the feature cache; a *warning* is something left out or suspicious; a *note* is
    something handled.
    """

    severity: Severity
    file: Path
    kind: str
    sentence: str
    count: int = 1

    def __str__(self) -> str:
        more = f" ({self.count} of this kind)" if self.count > 1 else ""
        return f"{self.file}: {self.sentence}{more}."


class Problems:
    """Collects problems; those of one kind in one file become one entry with a count."""

    def __init__(self) -> None:
        self._first: dict[tuple[Severity, Path, str], str] = {}
        self._count: Counter[tuple[Severity, Path, str]] = Counter()
        self._fatal: list[tuple[Severity, Path, str]] = []
        self._bad: dict[str, str] = {}
        self.unknown_classes: set[int] = set()
        """Numbers that objects have and no class."""

    def add(
        self, severity: Severity, file: Path, kind: str, sentence: str, count: int = 1, *, bad: str | None = None
    ) -> None:
        """Add a problem.

        Args:
            severity: how bad it is; see :class:`Problem`.
            file: the file in which it lies.
            kind: problems of one kind in one file are one entry.
            sentence: what is wrong and what to do, without the file and without a full stop.
            count: how many of the kind these are.
            bad: of an error: the one image or annotation that is unusable, and not among the parsed ones, so that the
                rest can be used without it. None when nothing can be used.
        """
        key = (severity, file, kind)
        self._first.setdefault(key, sentence)
        self._count[key] += count
        if severity == "error" and bad is None:
            self._fatal.append(key)
        elif severity == "error" and bad is not None:
            self._bad.setdefault(bad, sentence)

    def all(self) -> list[Problem]:
        """Every problem, errors first, in the order found."""
        order = {"error": 0, "warning": 1, "note": 2}
        problems = [Problem(*key, sentence, self._count[key]) for key, sentence in self._first.items()]
        return sorted(problems, key=lambda problem: order[problem.severity])

    def bad(self) -> dict[str, str]:
        """The images and annotations that cannot be used, and why: what ``skip_bad`` leaves out."""
        return dict(self._bad)

    def remarks(self) -> tuple[str, ...]:
        """Warnings and notes as sentences."""
        return tuple(str(problem) for problem in self.all() if problem.severity != "error")

    def raise_first(self, *, skip_bad: bool = False) -> None:
        """Raise the first error; with ``skip_bad`` the first one that is not about a single image or annotation.

        Raises:
            UserError: when there is an error.
        """
        if skip_bad and not self._fatal:
            return
        errors = [problem for problem in self.all() if problem.severity == "error"]
        if skip_bad:
            fatal = self._fatal[0]
            errors = [problem for problem in errors if (problem.severity, problem.file, problem.kind) == fatal]
        if not errors:
            return
        total = sum(problem.count for problem in errors)
        hints = [f"{total - 1} more: see 'detheads data validate'"] if total > 1 else []
        hints += ["--skip-bad leaves out what is bad"] if not self._fatal else []
        more = f" ({'; '.join(hints)})" if hints else ""
        raise UserError(f"{errors[0].file}: {errors[0].sentence}{more}.")


@dataclass(frozen=True)
class Parsed:
    """Images, categories and all ``N`` boxes of one split, before any box is dropped."""

    source: Path
    """The file or folder the annotations came from."""
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]
    boxes: NDArray[np.float64]
    """xyxy, original pixels, ``[N, 4]``; may be degenerate, outside the image, or not finite."""
    image_index: NDArray[np.int64]
    """Index into ``images``, ``[N]``."""
    labels: NDArray[np.int64]
    """Index into ``categories``, ``[N]``."""
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    """Original pixels, ``[N]``; NaN where the source has none."""
    problems: Problems = field(default_factory=Problems)
    unlisted: tuple[str, ...] = ()
    """Image files in the folder of the images that the annotations do not list."""

    def box_verdicts(self) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        """Boxes clipped to their images ``[N, 4]``; why each is dropped or clipped ``[N]``, empty where neither."""
        sizes = np.array([(image.width, image.height) for image in self.images], dtype=np.float64).reshape(-1, 2)
        limit = np.tile(sizes[self.image_index], 2)
        finite = np.asarray(np.isfinite(self.boxes).all(axis=1), dtype=np.bool_)
        boxes = np.where(finite[:, None], self.boxes, 0.0)
        clipped = np.clip(boxes, 0.0, limit)
        verdict = np.full(len(boxes), "", dtype=f"<U{max(map(len, (NOT_FINITE, NO_SIZE, OUTSIDE, CLIPPED)))}")
        verdict[np.abs(clipped - boxes).max(axis=1, initial=0.0) > ROUNDING] = CLIPPED
        verdict[(clipped[:, 2:] <= clipped[:, :2]).any(axis=1)] = OUTSIDE
        verdict[(boxes[:, 2:] <= boxes[:, :2]).any(axis=1)] = NO_SIZE
        verdict[~finite] = NOT_FINITE
        return clipped, verdict

    def to_dataset(self, name: str, split: str, *, skip_bad: bool = False) -> Dataset:
        """The dataset, with bad boxes dropped and counted.

        ``Dataset.dropped`` also counts the boxes that were kept but cut, under ``CLIPPED``.

        Args:
            name: the dataset's name.
            split: the split's name.
            skip_bad: leave out unusable images and annotations (``Dataset.skipped``) instead of raising.

        Raises:
            UserError: when the parse found an error, or there is no image.
        """
        self.problems.raise_first(skip_bad=skip_bad)
        if not self.images:
            why = next(
                (f" ({problem.sentence})" for problem in self.problems.all() if problem.severity == "warning"), ""
            )
            raise UserError(f"{self.source} holds no images; a dataset needs at least one{why}.")
        boxes, verdict = self.box_verdicts()
        kept = (verdict == "") | (verdict == CLIPPED)
        box_area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        area = np.where(np.isfinite(self.area), self.area, box_area)
        area = np.where(verdict == CLIPPED, np.minimum(area, box_area), area)
        order = np.flatnonzero(kept)
        order = order[np.argsort(self.image_index[order], kind="stable")]
        ends = np.searchsorted(self.image_index[order], np.arange(1, len(self.images)))
        objects = tuple(
            Objects(boxes[rows], self.labels[rows], self.crowd[rows], area[rows]) for rows in np.split(order, ends)
        )
        reasons = Counter(str(reason) for reason in verdict if reason)
        remarks = self.problems.remarks()
        return Dataset(name, split, self.categories, self.images, objects, reasons, self.problems.bad(), remarks)
