"""Read a finished cache: features by image index, and the boxes that go with them."""

from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.cache.manifest import ANNOTATIONS_NAME, MANIFEST_NAME, image_entry, read_manifest
from detheads.cache.shard import ShardReader
from detheads.cache.storage import FLIPPED_SUFFIX, SCALE_SUFFIX, decode
from detheads.data.coco import read_coco_json
from detheads.data.dataset import Category, Dataset
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import Letterbox, flip_boxes
from detheads.targets.objects import Targets


class FeatureCache:
    """A finished feature cache, opened for reading.

    Attributes:
        manifest: what the cache says of itself.
        feature_spec: what a head for these features is built from.
        dataset: the images and boxes, in original pixels (the image files need not exist any more).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        settings = self.manifest.settings
        self.feature_spec = FeatureSpec(
            tuple(FeatureLayer(layer.name, layer.channels, layer.stride) for layer in settings.layers),
            settings.main,
            settings.height,
            settings.width,
        )
        self.dataset = self._read_dataset()
        self._shards: dict[int, ShardReader] = {}
        self._ends = list(accumulate(shard.count for shard in self.manifest.shards))

    def __len__(self) -> int:
        return len(self.manifest.images)

    @property
    def has_flips(self) -> bool:
        return self.manifest.settings.flips

    @property
    def sha256(self) -> str:
        """Digest of the manifest, which holds the digests of everything else."""
        return atomic.sha256_of(self.folder / MANIFEST_NAME)

    def restricted(self, categories: Sequence[Category]) -> "FeatureCache":
        """The same features with the objects of some of the dataset's categories only."""
        view = copy(self)
        view.dataset = self.dataset.restricted(categories)
        return view

    def features(
        self, indices: Sequence[int], flipped: Sequence[bool] | None = None, layers: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """float32 features of some images, ``{layer: [B, C, H / stride, W / stride]}``.

        Args:
            indices: positions in ``manifest.images``.
            flipped: for each image whether to take the features of its mirror image.
            layers: names of the layers to read; all when None.

        Raises:
            UserError: when a shard is damaged, or mirrored features are asked of a cache without them.
        """
        flipped = flipped or [False] * len(indices)
        if any(flipped) and not self.has_flips:
            raise UserError(f"{self.folder} holds no mirrored images; build it with --flips.")
        result = {}
        for name in layers or self.feature_spec.names:
            rows, scales = [], []
            for index, mirror in zip(indices, flipped, strict=True):
                shard, row = self._locate(index)
                key = name + FLIPPED_SUFFIX if mirror else name
                rows.append(shard.row(key, row))
                if key + SCALE_SUFFIX in shard:
                    scales.append(shard.row(key + SCALE_SUFFIX, row))
            result[name] = decode(torch.stack(rows), torch.stack(scales) if scales else None)
        return result

    def targets(self, index: int, flipped: bool = False) -> Targets:
        """Boxes of one image in input pixels, crowd regions left out."""
        objects = self.dataset.objects[index]
        boxes = self.letterbox(index).to_input(objects.boxes[~objects.crowd])
        if flipped:
            boxes = flip_boxes(boxes, self.feature_spec.width)
        return Targets(torch.from_numpy(boxes).float(), torch.from_numpy(objects.labels[~objects.crowd]))

    def letterbox(self, index: int) -> Letterbox:
        """How image ``index`` was put into the model input.

        Raises:
            UserError: when its features were made with another letterbox than that of this version.
        """
        image, spec = self.manifest.images[index], self.feature_spec
        letterbox = Letterbox.fit(image.width, image.height, spec.width, spec.height)
        if image_entry(image.id, image.file_name, letterbox) != image:
            raise UserError(
                f"{self.folder} holds {image.file_name} letterboxed in another way than this version does; "
                "build the cache again in another folder."
            )
        return letterbox

    def _locate(self, index: int) -> tuple[ShardReader, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a cache of {len(self)}")
        number = bisect_right(self._ends, index)
        if number not in self._shards:
            self._shards[number] = ShardReader(self.folder, self.manifest.shards[number])
        return self._shards[number], index - (self._ends[number] - self.manifest.shards[number].count)

    def _read_dataset(self) -> Dataset:
        path = self.folder / ANNOTATIONS_NAME
        if not path.is_file() or atomic.sha256_of(path) != self.manifest.annotations_sha256:
            raise UserError(f"{path} is missing or was changed after the cache was built; build the cache again.")
        dataset = read_coco_json(path, self.folder, name=self.manifest.dataset, split=self.manifest.split)
        if [image.id for image in dataset.images] != [image.id for image in self.manifest.images]:
            raise UserError(f"{path} lists other images than the manifest; build the cache again.")
        return dataset
