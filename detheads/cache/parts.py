"""A build that is divided: which pictures a part takes, and where its features lie.

A part is a run of whole shards of the build that nobody divided, so that the parts together have its bytes. Each is a
cache in a folder of its own, ``part-2-of-4``, and can be read as one; :mod:`detheads.cache.merge` makes them one.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from detheads.cache.manifest import MANIFEST_NAME, PartEntry, Settings, annotations_bytes
from detheads.cache.plan import CACHE, images_per_shard
from detheads.data.dataset import Dataset
from detheads.foundation.errors import UserError

_FOLDER = re.compile(r"part-([1-9]\d{0,5})-of-([1-9]\d{0,5})")


@dataclass(frozen=True)
class Part:
    """Part ``number`` (from 1) of ``of``."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of < 10**6:
            raise UserError(f"part {self.number} of {self.of} does not exist; parts are counted from 1/N to N/N.")

    @classmethod
    def parse(cls, text: str) -> "Part":
        """``"2/4"``.

        Raises:
            UserError: when it reads otherwise, or there is no such part.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None:
            raise UserError(f"a part reads I/N, such as 2/4, not {text!r}.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"part {self.number} of {self.of}"

    def folder(self, parent: Path) -> Path:
        """Where the part lies among those of its build."""
        return parent / f"part-{self.number}-of-{self.of}"

    def entry(self, dataset: Dataset, settings: Settings) -> PartEntry:
        """What the part's manifest says of the build of all of ``dataset``."""
        images = [(image.id, image.file_name, image.width, image.height) for image in dataset.images]
        plan = json.dumps([images_per_shard(settings), images])
        return PartEntry(
            number=self.number,
            of=self.of,
            plan_sha256=hashlib.sha256(plan.encode()).hexdigest(),
            annotations_sha256=hashlib.sha256(annotations_bytes(dataset.coco_json())).hexdigest(),
        )

    def of_dataset(self, dataset: Dataset, settings: Settings) -> Dataset:
        """The pictures of this part: its share of the shards, which differ by one at most.

        Raises:
            UserError: when there are more parts than shards.
        """
        per_shard = images_per_shard(settings)
        shards = most_parts(dataset, settings)
        if self.of > shards:
            raise UserError(
                f"the {len(dataset.images)} images of {dataset.name}/{dataset.split} fill {shards} shards of "
                f"{per_shard} images, which cannot be divided into {self.of} parts; give at most {shards}."
            )
        first, stop = (per_shard * (shards * number // self.of) for number in (self.number - 1, self.number))
        return replace(dataset, images=dataset.images[first:stop], objects=dataset.objects[first:stop])


def most_parts(dataset: Dataset, settings: Settings) -> int:
    """Into how many parts a build can be divided: as many as it has shards."""
    return ceil(len(dataset.images) / images_per_shard(settings))


def require_divisible(parent: Path, reuse: Sequence[str | Path]) -> None:
    """Refuse what a divided build cannot do.

    Raises:
        UserError: when its parts would lie in a feature cache, or it takes features of other caches.
    """
    if any((parent / name).is_file() for name in (MANIFEST_NAME, CACHE.record)):
        raise UserError(f"{parent} is a feature cache; parts go into a folder of their own, choose another with -o.")
    if reuse:
        raise UserError("a part takes no features of other caches; leave out --from, or build without --part.")


def part_folders(sources: Sequence[Path]) -> list[Path]:
    """The folders of parts that are meant by folders of parts and parts themselves.

    Raises:
        UserError: when one is neither.
    """
    found: list[Path] = []
    for source in sources:
        if _FOLDER.fullmatch(source.name) and (source / CACHE.record).is_file():
            found.append(source)
            continue
        inside = sorted(path for path in source.glob("part-*-of-*") if _FOLDER.fullmatch(path.name) and path.is_dir())
        if not inside:
            raise UserError(f"{source} holds no part of a cache; 'detheads cache build --part 1/N' makes the first.")
        found += inside
    return found
