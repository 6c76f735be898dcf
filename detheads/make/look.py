"""A look at a dataset: what it holds, what is wrong with it, how large its objects are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detheads.data import Dataset, list_splits, read_dataset
from detheads.data.classes import with_same_classes
from detheads.data.findings import some
from detheads.data.validate import validate_dataset
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress
from detheads.make.request import Request

CHECKED_PICTURES = 5000
"""Datasets of up to this many pictures are decoded before the work, which finds repeated and unreadable ones: 6 ms a
picture and core. Of larger ones the annotations are read, and pictures fail, or are left out, when they are cached."""
SMALL_SHARE = 0.1
"""The objects that an input size is chosen by: a tenth of all is smaller."""


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        train: the training split, or the only one.
        val: the split to judge by; None when the dataset has none.
    """

    train: Dataset
    val: Dataset | None

    @property
    def pictures(self) -> int:
        return len(self.train.images) + (len(self.val.images) if self.val else 0)

    @property
    def boxes_of_classes(self) -> dict[str, int]:
        """Training objects of each class, crowds left out."""
        labels = [objects.labels[~objects.crowd] for objects in self.train.objects]
        counts = np.bincount(np.concatenate(labels), minlength=len(self.train.categories)).tolist()
        return dict(zip(self.train.class_names, counts, strict=True))


def look_at(request: Request) -> Look:
    """Read a dataset.

    Raises:
        UserError: when it is none, has no split to train on, or no box to learn from.
    """
    train_name, val_name = _split_names(request)
    names = [train_name] if val_name is None else [train_name, val_name]
    parts = with_same_classes([read_dataset(request.data, name, skip_bad=request.skip_bad) for name in names])
    look = Look(parts[0], parts[1] if len(parts) > 1 else None)
    if not any(look.boxes_of_classes.values()):
        raise UserError(
            f"{request.data} has no box to learn from in its split {train_name} ({len(look.train.images)} images); "
            "'detheads data validate' says what becomes of a dataset's boxes."
        )
    return look


def check(look: Look, request: Request, on_progress: Progress) -> list[str]:
    """Decode every picture and judge the whole; what there is to say of it, in sentences.

    Raises:
        UserError: when there are errors that are not to be skipped.
    """
    if look.pictures > CHECKED_PICTURES:
        return [f"{look.pictures:,} pictures are too many to decode beforehand; they are checked as they are cached"]
    report = validate_dataset(request.data, on_progress=on_progress)
    wrong = [problem for problem in report.problems if problem.severity == "error"]
    if wrong and not request.skip_bad:
        count = sum(problem.count for problem in wrong)
        raise UserError(
            f"{request.data}: {count} {'error' if count == 1 else 'errors'}, the first: {wrong[0].file}: "
            f"{wrong[0].sentence}; 'detheads data validate' lists all, --skip-bad leaves out what cannot be used."
        )
    empty = [name for name, boxes in look.boxes_of_classes.items() if not boxes]
    classes = [f"no training object is a {some(empty)}: the head cannot learn it"] if empty else []
    return classes + [finding.sentence for finding in report.findings if finding.severity != "note"]


def object_shares(dataset: Dataset) -> NDArray[np.float64]:
    """Side of each object (the root of its area) as a share of its picture's longer side, ``[M]``; crowds left out."""
    shares = [np.zeros(0)]
    for image, objects in zip(dataset.images, dataset.objects, strict=True):
        boxes = objects.boxes[~objects.crowd]
        shares.append(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)) / max(image.width, image.height))
    return np.concatenate(shares)


def longest_sides(dataset: Dataset) -> NDArray[np.float64]:
    """The longer side of each picture in pixels, ``[N]``."""
    return np.array([max(image.width, image.height) for image in dataset.images], dtype=np.float64)


def _split_names(request: Request) -> tuple[str, str | None]:
    """The split to train on, and the one to judge by where there is one."""
    names = list_splits(request.data)
    train = _first(names, "train") or (names[0] if len(names) == 1 else None)
    if train is None:
        raise UserError(
            f"{request.data} has the splits {', '.join(names)} and none to train on; call one of them train, or pool "
            "them with 'detheads data split'."
        )
    rest = [name for name in names if name != train]
    return train, _first(rest, "val") or _first(rest, "test")


def _first(names: Sequence[str], beginning: str) -> str | None:
    return next((name for name in names if name.startswith(beginning)), None)
