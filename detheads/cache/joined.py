"""Several caches read as one: a training set that was cached in pieces, or several datasets of the same classes."""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path

from detheads.cache.agreement import require_same_features
from detheads.cache.manifest import ImageEntry
from detheads.cache.reader import FeatureCache
from detheads.cache.shard import ShardReader
from detheads.data.dataset import Dataset, ImageRecord
from detheads.foundation.errors import UserError

_STORED = {
    "dtype": "storage type (--dtype)",
    "flips": "mirrored images (--flips)",
    "pad_value": "letterbox padding",
    "pixel_rule": "way from picture files to pixels",
    "schema_version": "format",
    "layers": "depth maps (--depth)",
}
"""Settings of a cache that features in one batch have to share, beyond those that a head cares for."""


def open_caches(folders: Sequence[str | Path]) -> FeatureCache:
    """One cache, or several as one.

    Raises:
        UserError: as :class:`FeatureCache` and :class:`JoinedCache`.
    """
    caches = [FeatureCache(folder) for folder in folders]
    return caches[0] if len(caches) == 1 else JoinedCache(caches)


class JoinedCache(FeatureCache):
    """Caches of the same features and classes behind one another; nothing is copied.

    Image ids are the caches' own where no two meet, else they count from 1. A picture that lies in several of the
    caches counts once for each, with the boxes of each.

    Attributes:
        folder: the folders with commas between them, for sentences; a path to nothing.
        parts: the caches.
    """

    def __init__(self, caches: Sequence[FeatureCache]) -> None:
        """Join at least two caches.

        Raises:
            UserError: naming what two of them differ in, or one that was given twice.
        """
        first, *others = caches
        for other in others:
            require_same_features(first, other)
            _require_stored_alike(first, other)
        _require_different(caches)
        self.parts = tuple(caches)
        self.folder = Path(", ".join(str(cache.folder) for cache in caches))
        self.feature_spec = first.feature_spec
        manifests = [cache.manifest for cache in caches]
        images, records = _with_ids(caches)
        self.manifest = first.manifest.model_copy(
            update={
                "dataset": " + ".join(dict.fromkeys(manifest.dataset for manifest in manifests)),
                "split": " + ".join(dict.fromkeys(manifest.split for manifest in manifests)),
                "annotations_sha256": _digest(manifest.annotations_sha256 for manifest in manifests),
                "dropped": dict(sum((Counter(manifest.dropped) for manifest in manifests), Counter())),
                "skipped": dict(chain.from_iterable(manifest.skipped.items() for manifest in manifests)),
                "images": images,
                "shards": tuple(chain.from_iterable(manifest.shards for manifest in manifests)),
            }
        )
        self.dataset = Dataset(
            self.manifest.dataset,
            self.manifest.split,
            first.dataset.categories,
            records,
            tuple(chain.from_iterable(cache.dataset.objects for cache in caches)),
        )
        self._starts = list(accumulate((len(cache) for cache in caches), initial=0))  # position of each part's first

    @property
    def sha256(self) -> str:
        """Digest of the parts' own, in their order."""
        return _digest(cache.sha256 for cache in self.parts)

    @property
    def shard_numbers(self) -> tuple[int, ...]:
        """Positions in ``manifest.shards``, which are the parts' behind one another."""
        firsts = accumulate((len(cache.manifest.shards) for cache in self.parts), initial=0)
        pairs = zip(firsts, self.parts)  # noqa: B905 - the last number is behind all parts
        return tuple(first + number for first, cache in pairs for number in cache.shard_numbers)

    def _locate(self, index: int) -> tuple[ShardReader, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)} in {len(self.parts)} caches")
        part = bisect_right(self._starts, index) - 1
        return self.parts[part]._locate(index - self._starts[part])


def _require_stored_alike(first: FeatureCache, other: FeatureCache) -> None:
    for key, called in _STORED.items():
        if getattr(first.manifest.settings, key) != getattr(other.manifest.settings, key):
            raise UserError(
                f"{first.folder} and {other.folder} differ in their {called}, so they are no training set together; "
                "build both alike."
            )


def _require_different(caches: Sequence[FeatureCache]) -> None:
    seen: dict[str, FeatureCache] = {}
    for cache in caches:
        twin = seen.setdefault(cache.sha256, cache)
        if twin is not cache:
            raise UserError(f"{twin.folder} and {cache.folder} are the same cache; give each once.")


def _with_ids(caches: Sequence[FeatureCache]) -> tuple[tuple[ImageEntry, ...], tuple[ImageRecord, ...]]:
    """The images of all caches, in the manifest's words and the dataset's, under ids that no two have."""
    images = tuple(chain.from_iterable(cache.manifest.images for cache in caches))
    records = tuple(chain.from_iterable(cache.dataset.images for cache in caches))
    if len({image.id for image in images}) == len(images):
        return images, records
    return (
        tuple(replace(image, id=number) for number, image in enumerate(images, 1)),
        tuple(replace(record, id=number) for number, record in enumerate(records, 1)),
    )


def _digest(digests: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()
