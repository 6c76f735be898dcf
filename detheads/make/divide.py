"""Which pictures to learn from and which to judge by: the dataset's own splits, splits of ours, or folds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detheads.data import Dataset, read_dataset
from detheads.data.convert import convert_dataset
from detheads.data.partition import partition
from detheads.data.split import deal_out, part_of, pooled, presence, split_dataset
from detheads.foundation.progress import Progress
from detheads.make.look import CHECKED_PICTURES, Look
from detheads.make.request import Request

FOLDS = 5
SMALL_SPLIT = 0.2
"""Share of the pictures that judge, where the dataset does not say which."""
FEW_PICTURES = 100
"""A dataset of fewer pictures without a validation split is judged by folds: a fifth of it would be under 20 pictures,
whose AP moves by several points with each."""
FEW_JUDGES = 10
"""A validation split of fewer pictures says too little; a dataset that has one and is small is judged by folds, too."""
PICTURES_NAME = "pictures"


@dataclass(frozen=True)
class Division:
    """What is learned from and judged by.

    Attributes:
        train: the pictures that the shipped head learns from.
        val: those that it is judged by, which it never sees; where there are folds, all pictures.
        data: the folder that both are splits of.
        folds: (training, validation) for each fold; empty where there is a validation split.
        sentence: why it is so.
    """

    train: Dataset
    val: Dataset
    data: Path
    folds: Sequence[tuple[Dataset, Dataset]]
    sentence: str


def divide(look: Look, request: Request, on_progress: Progress) -> Division:
    """Divide a dataset; new splits are written as links into the working folder, once.

    Raises:
        UserError: when there are too few pictures.
    """
    small = look.pictures < FEW_PICTURES
    if look.val is not None and not (small and len(look.val.images) < FEW_JUDGES):
        return Division(
            look.train,
            look.val,
            request.data,
            (),
            f"the dataset's own splits: {len(look.train.images):,} pictures of {look.train.split} to learn from, "
            f"{len(look.val.images):,} of {look.val.split} to judge by",
        )
    target = request.work / PICTURES_NAME
    parts = [look.train] if look.val is None else [look.train, look.val]
    if look.pictures > CHECKED_PICTURES:
        return _divided_unseen(look.train, request)
    if not small:
        if not target.exists():
            split_dataset(parts, target, "coco", val=SMALL_SPLIT, seed=request.seed, link=True, on_progress=on_progress)
        train, val = read_dataset(target, "train"), read_dataset(target, "val")
        return Division(
            train,
            val,
            target,
            (),
            f"no validation split: {len(val.images):,} of {look.pictures:,} pictures, of all classes alike, are kept "
            "to judge by; equal and nearly equal pictures stay together",
        )
    if not target.exists():
        convert_dataset([replace(pooled(parts), split="train")], target, "coco", link=True, on_progress=on_progress)
    every = read_dataset(target, "train")
    return Division(
        every,
        every,
        target,
        _folds(every, request.seed, on_progress),
        f"{look.pictures} pictures are too few to set some aside: the figures are those of {FOLDS} folds, in which "
        "each picture is judged by a head that has not seen it, and the shipped head learns from all",
    )


def _divided_unseen(every: Dataset, request: Request) -> Division:
    """A large dataset divided without a look at its pictures, which would take as long as caching a part of them."""
    judges = subset(every, round(SMALL_SPLIT * len(every.images)), request.seed)
    held = {image.id for image in judges.images}
    learned = [index for index, image in enumerate(every.images) if image.id not in held]
    return Division(
        part_of(every, every.split, learned),
        judges,
        request.data,
        (),
        f"no validation split: {len(judges.images):,} of {len(every.images):,} pictures, of all classes alike, are "
        "kept to judge by; equal pictures were not looked for among so many",
    )


def subset(dataset: Dataset, count: int, seed: int) -> Dataset:
    """``count`` pictures of a dataset, of all classes alike; all of them where it has no more."""
    total = len(dataset.images)
    if count >= total:
        return dataset
    groups = [[index] for index in range(total)]
    chosen = partition(groups, presence(dataset), {"used": count / total, "left": 1 - count / total}, seed)
    return part_of(dataset, dataset.split, chosen["used"][:count])  # equal classes may ask for a few more


def _folds(every: Dataset, seed: int, on_progress: Progress) -> list[tuple[Dataset, Dataset]]:
    count = min(FOLDS, len(every.images))
    names = [f"fold-{number + 1}" for number in range(count)]
    dealt = deal_out(every, dict.fromkeys(names, 1 / count), seed=seed, on_progress=on_progress).splits
    places = {image.id: index for index, image in enumerate(every.images)}
    folds = []
    for part in dealt:
        judged = {places[image.id] for image in part.images}
        learned = [index for index in range(len(every.images)) if index not in judged]
        folds.append((part_of(every, "train", learned), part_of(every, "val", sorted(judged))))
    return folds
