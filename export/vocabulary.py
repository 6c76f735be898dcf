"""What proves a head whose classes were changed at export: the labels that a dataset has for them, or none.

A dataset seldom names the new classes. Those that it names are measured; of the others the proof can say that both
sides find the same. Where it names none, PyTorch's own detections stand for objects, and the figures are agreement.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detheads.data.dataset import Dataset, Objects
from detheads.data.same_classes import of_these_classes
from detheads.export.live import LiveDetections
from detheads.foundation.errors import UserError
from detheads.training.checkpoint import Checkpoint

LISTED = 5
"""Classes that a remark names."""


def of_head(dataset: Dataset, checkpoint: Checkpoint, holder: str) -> Dataset:
    """A dataset with the classes of a head: of changed ones those that it names, with its objects of them.

    Args:
        holder: what the model is called in a sentence, such as ``"the bundle"``.

    Raises:
        UserError: when the head has its own classes and they are not the dataset's.
    """
    if checkpoint.vocabulary_sha256 is None:
        return of_these_classes(dataset, checkpoint.categories, holder)
    label_of = {category.name: label for label, category in enumerate(checkpoint.categories)}
    labels = np.array([label_of.get(name, -1) for name in dataset.class_names], dtype=np.int64)
    objects = []
    for known in dataset.objects:
        kept = labels[known.labels] >= 0
        objects.append(Objects(known.boxes[kept], labels[known.labels[kept]], known.crowd[kept], known.area[kept]))
    return replace(dataset, categories=checkpoint.categories, objects=tuple(objects))


def unnamed(dataset: Dataset, checkpoint: Checkpoint) -> list[str]:
    """The classes of a head that a dataset does not name."""
    return [category.name for category in checkpoint.categories if category.name not in dataset.class_names]


def unnamed_remarks(names: Sequence[str], own_labels: bool) -> list[str]:
    """What the proof says of classes without labels; nothing where :func:`own_labelled` says it of all."""
    if not names or own_labels:
        return []
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return [
        f"the pictures are not labelled with {', '.join(names[:LISTED])}{more}: of these classes the proof says that "
        "both sides find the same, and nothing of how well they are found"
    ]


def own_labelled(dataset: Dataset, found: Sequence[LiveDetections]) -> Dataset:
    """The images with PyTorch's detections as objects.

    Raises:
        UserError: when it finds nothing.
    """
    if not any(len(one.scores) for one in found):
        raise UserError(
            f"{dataset.name} {dataset.split} has no object of these classes and PyTorch finds none in it either, so "
            "nothing can be proven; give pictures that show them, or export with a lower --score."
        )
    objects = tuple(
        Objects(
            one.boxes,
            one.labels,
            np.zeros(len(one.labels), bool),
            (one.boxes[:, 2] - one.boxes[:, 0]) * (one.boxes[:, 3] - one.boxes[:, 1]),
        )
        for one in found
    )
    return replace(dataset, objects=objects)
