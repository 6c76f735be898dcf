"""Splits of one dataset brought to the same classes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detheads.data.dataset import Category, Dataset, Objects
from detheads.foundation.errors import UserError


def with_same_classes(splits: Sequence[Dataset]) -> list[Dataset]:
    """The splits with the classes of the one that has the most; classes are the same when their names are.

    A validation split often lacks a rare class, and tools number classes anew for each split.

    Raises:
        UserError: when a split has a class that the largest list lacks, or two classes of one name.
    """
    if all(part.categories == splits[0].categories for part in splits):
        return list(splits)
    largest = max(splits, key=lambda part: len(part.categories))
    united = []
    for part in splits:
        for one in (part, largest):
            if twice := [name for name in one.class_names if one.class_names.count(name) > 1]:
                raise UserError(f"split {one.split!r} has two classes called {twice[0]!r}; rename one of them.")
        if alien := [name for name in part.class_names if name not in largest.class_names]:
            raise UserError(
                f"the splits {largest.split}, {part.split} have different classes: only {part.split} has {alien[0]!r}; "
                "give both the same classes, or choose one with --split."
            )
        united.append(_with_classes(part, largest.categories))
    return united


def _with_classes(part: Dataset, categories: tuple[Category, ...]) -> Dataset:
    label_of = {category.name: label for label, category in enumerate(categories)}
    labels = np.array([label_of[name] for name in part.class_names], dtype=np.int64)
    objects = tuple(Objects(one.boxes, labels[one.labels], one.crowd, one.area) for one in part.objects)
    return replace(part, categories=categories, objects=objects)
