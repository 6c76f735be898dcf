"""Some pictures of a cache, read as a cache of their own."""

from collections.abc import Sequence
from dataclasses import replace

from detheads.cache.reader import FeatureCache
from detheads.cache.shard import ShardReader


class PartOfCache(FeatureCache):
    """Some images of a cache; nothing is copied.

    Its digests are those of the whole cache: which part it is, its maker knows.

    Attributes:
        whole: the cache.
        positions: of its images there.
    """

    def __init__(self, whole: FeatureCache, positions: Sequence[int]) -> None:
        self.whole, self.positions = whole, tuple(positions)
        self.folder, self.feature_spec, self.turns_features = whole.folder, whole.feature_spec, whole.turns_features
        images = tuple(whole.manifest.images[position] for position in self.positions)
        self.manifest = whole.manifest.model_copy(update={"images": images})
        self.dataset = replace(
            whole.dataset,
            images=tuple(whole.dataset.images[position] for position in self.positions),
            objects=tuple(whole.dataset.objects[position] for position in self.positions),
        )

    @property
    def sha256(self) -> str:
        """Digest of the whole cache."""
        return self.whole.sha256

    @property
    def features_sha256(self) -> str:
        """Digest of the features of the whole cache."""
        return self.whole.features_sha256

    @property
    def shard_numbers(self) -> tuple[int, ...]:
        numbers = self.whole.shard_numbers
        return tuple(numbers[position] for position in self.positions)

    def _locate(self, index: int) -> tuple[ShardReader, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)} in a part of a cache")
        return self.whole._locate(self.positions[index])
