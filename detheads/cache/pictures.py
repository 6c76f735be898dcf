"""Which pictures a cache was built of, and which a dataset has now: told apart by the digests of their files."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from detheads.cache.images import OnBad, digests
from detheads.cache.manifest import CacheManifest
from detheads.data.dataset import Dataset, ImageRecord
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent


@dataclass(frozen=True)
class Difference:
    """File names of pictures that a cache and a dataset do not share. False when there is none.

    Attributes:
        replaced: of this name in both, with another content.
        new: in the dataset only.
        gone: in the cache only.
    """

    replaced: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.replaced or self.new or self.gone)

    @property
    def sentence(self) -> str:
        """How many of each kind, with the first of them."""
        kinds = (("replaced", self.replaced), ("new", self.new), ("gone", self.gone))
        return ", ".join(f"{len(names)} {kind}: {names[0]}" for kind, names in kinds if names)


def picture_digests(
    images: Sequence[ImageRecord], on_bad: OnBad, on_progress: Progress = silent
) -> dict[ImageRecord, str]:
    """SHA-256 of each picture's file that can be read."""
    key_of: dict[ImageRecord, str] = {}
    for done, (image, key) in enumerate(zip(images, digests(images, on_bad), strict=True), start=1):
        if key is not None:
            key_of[image] = key
        on_progress("comparing pictures", done, len(images))
    return key_of


def compare(manifest: CacheManifest, key_of: Mapping[ImageRecord, str]) -> Difference:
    """What differs between the pictures of a cache and those of a dataset; other names of the same files do not count.

    Args:
        key_of: digest of each picture of the dataset.
    """
    stored, found = {image.sha256 for image in manifest.images}, set(key_of.values())
    known = {image.file_name for image in manifest.images}
    names = {image.file_name for image in key_of}
    strange = [image.file_name for image, key in key_of.items() if key not in stored]
    return Difference(
        replaced=tuple(name for name in strange if name in known),
        new=tuple(name for name in strange if name not in known),
        gone=tuple(
            image.file_name for image in manifest.images if image.sha256 not in found and image.file_name not in names
        ),
    )


def without(dataset: Dataset, left_out: Collection[ImageRecord]) -> Dataset:
    """The dataset without some of its pictures.

    Raises:
        UserError: when none would be left.
    """
    kept = [index for index, image in enumerate(dataset.images) if image not in left_out]
    if not kept:
        raise UserError(f"no picture of {dataset.name}/{dataset.split} can be used.")
    return replace(
        dataset,
        images=tuple(dataset.images[index] for index in kept),
        objects=tuple(dataset.objects[index] for index in kept),
    )
