"""``data split``: a dataset divided anew into training, validation and test splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detheads.data.classes import with_same_classes
from detheads.data.convert import write_splits
from detheads.data.dataset import Dataset, ImageRecord
from detheads.data.duplicates import Fingerprint, duplicate_groups, fingerprint
from detheads.data.partition import partition
from detheads.data.pictures import load_picture
from detheads.foundation.ahead import map_ahead
from detheads.foundation.atomic import sha256_of
from detheads.foundation.claims import new_folder
from detheads.foundation.cores import available_cores
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent

_AHEAD = 64


@dataclass(frozen=True)
class Division:
    """What was written.

    Attributes:
        splits: the new splits; their images lie in the new folder.
        kept_together: pictures that are equal or nearly equal to others.
        largest_group: pictures of the largest such group.
        skipped: pictures that could not be decoded -> why.
    """

    splits: list[Dataset]
    kept_together: int
    largest_group: int
    skipped: dict[str, str]

    @property
    def images(self) -> int:
        return sum(len(part.images) for part in self.splits)


def split_dataset(
    parts: Sequence[Dataset],
    target: str | Path,
    layout: str,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    link: bool = False,
    skip_bad: bool = False,
    on_progress: Progress = silent,
) -> Division:
    """Divide the pictures of some splits into ``train``, ``val`` and ``test`` and write them as one folder.

    Classes are spread evenly (see :func:`detheads.data.partition.partition`); equal and nearly equal pictures (see
    :mod:`detheads.data.duplicates`) stay in one split. The same pictures, shares and seed give the same splits.

    Args:
        parts: the splits whose pictures are pooled.
        target: the folder to write; it must not exist, or be empty.
        layout: the name of a known layout.
        val, test: shares of the pictures; a share of 0 makes no such split.
        seed: another seed gives other splits.
        link: hard-link images instead of copying them, where the file system can.
        skip_bad: leave out pictures that cannot be decoded or are not the annotated ones.

    Raises:
        UserError: when shares are impossible, there are too few pictures, a picture is bad, or the target is not empty.
    """
    if not (0 <= val < 1 and 0 <= test < 1 and 0 < val + test < 1):
        raise UserError(f"--val {val:g} and --test {test:g} must be shares from 0 that add up to less than 1.")
    shares = {name: share for name, share in (("train", 1 - val - test), ("val", val), ("test", test)) if share > 0}
    if seed < 0:
        raise UserError(f"a seed is a whole number from 0, not {seed}.")
    with new_folder(Path(target)) as folder:
        division = deal_out(pooled(parts), shares, seed=seed, skip_bad=skip_bad, on_progress=on_progress)
        write_splits(division.splits, folder, layout, link=link, on_progress=on_progress)
    return division


def deal_out(
    pool: Dataset,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    skip_bad: bool = False,
    on_progress: Progress = silent,
) -> Division:
    """The pictures of a dataset divided as :func:`split_dataset` does, without writing anything.

    Args:
        shares: split -> share of the pictures; they add up to 1.

    Raises:
        UserError: when there are too few pictures, or one is bad.
    """
    prints, bad = _fingerprints(pool, skip_bad, on_progress)
    pool = pool.without(bad)
    groups = duplicate_groups(prints)
    chosen = partition(groups, presence(pool), shares, seed)
    if empty := [name for name, indices in chosen.items() if not indices]:
        raise UserError(
            f"{len(pool.images)} pictures, {len(groups)} of them unlike, are too few for a split {empty[0]!r} of "
            f"{shares[empty[0]]:.0%}; ask for a larger share."
        )
    made = [part_of(pool, name, indices) for name, indices in chosen.items()]
    together = [len(group) for group in groups if len(group) > 1]
    return Division(made, sum(together), max(together, default=0), dict(pool.skipped))


def presence(dataset: Dataset) -> NDArray[np.bool_]:
    """Which classes each picture has objects of, crowds left out, ``[pictures, classes]``."""
    present = np.zeros((len(dataset.images), len(dataset.categories)), dtype=np.bool_)
    for row, objects in enumerate(dataset.objects):
        present[row, objects.labels[~objects.crowd]] = True
    return present


def pooled(parts: Sequence[Dataset]) -> Dataset:
    """All pictures of some splits as one dataset; names and ids that several splits use are made unique.

    Raises:
        UserError: when the splits have different classes.
    """
    parts = with_same_classes(parts)
    images = [(part, image) for part in parts for image in part.images]
    names = [image.file_name for _, image in images]
    if len(set(names)) < len(names):
        names = [f"{part.split}/{image.file_name}" for part, image in images]
    ids: list[int] = [image.id for _, image in images]
    if len(set(ids)) < len(ids):
        ids = list(range(1, len(images) + 1))
    records = (replace(image, id=i, file_name=name) for (_, image), i, name in zip(images, ids, names, strict=True))
    objects = tuple(objects for part in parts for objects in part.objects)
    return replace(parts[0], images=tuple(records), objects=objects, skipped={}, remarks=())


def _fingerprints(pool: Dataset, skip_bad: bool, on_progress: Progress) -> tuple[list[Fingerprint], dict[int, str]]:
    """Of each picture that can be decoded; why the others, by position, cannot."""
    prints, bad = [], {}
    found = map_ahead(_fingerprint, pool.images, ahead=_AHEAD, threads=available_cores())
    for index, one in enumerate(found):
        if isinstance(one, Fingerprint):
            prints.append(one)
        elif skip_bad:
            bad[index] = str(one).removeprefix(str(pool.images[index].path)).strip()
        else:
            raise one
        on_progress("comparing pictures", index + 1, len(pool.images))
    return prints, bad


def _fingerprint(image: ImageRecord) -> Fingerprint | UserError:
    try:
        return fingerprint(load_picture(image), sha256_of(image.path))
    except UserError as error:
        return error


def part_of(pool: Dataset, name: str, indices: Sequence[int]) -> Dataset:
    """Some pictures of a dataset as a split of this name."""
    images = tuple(pool.images[index] for index in indices)
    objects = tuple(pool.objects[index] for index in indices)
    return replace(pool, split=name, images=images, objects=objects, skipped={})
