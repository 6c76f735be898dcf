"""Read a finished cache: features by image index, and the boxes that go with them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from typing import overload

import torch
from torch import Tensor

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.cache.annotations import read_annotations
from detheads.cache.checked import CheckedFiles
from detheads.cache.manifest import MANIFEST_NAME, image_entry, read_manifest
from detheads.cache.rows import StoredRows
from detheads.cache.shard import ShardReader
from detheads.cache.storage import FLIPPED_SUFFIX, SCALE_SUFFIX, first_not_finite, stored_tensors
from detheads.data.dataset import Category, Dataset, ImageRecord
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import Letterbox, flip_boxes, sides
from detheads.targets.objects import Targets


@dataclass(frozen=True)
class Sample:
    """One image of a cache.

    Attributes:
        image: its record; the size in original pixels. The file itself need not exist any more.
        features: layer name -> float32 ``[C, H / stride, W / stride]``.
        targets: its boxes (xyxy, input pixels) and labels, crowd regions left out.
    """

    image: ImageRecord
    features: dict[str, Tensor]
    targets: Targets


class FeatureCache(Sequence[Sample]):
    """A finished feature cache, opened for reading; a sequence of its images.

    Example::

        cache = FeatureCache("cache/train")
        for sample in cache:
            sample.features["last"], sample.targets.boxes, sample.targets.labels

    Attributes:
        folder: where it lies.
        manifest: what the cache says of itself.
        feature_spec: what a head for these features is built from.
        dataset: the images and boxes, in original pixels (the image files need not exist any more).
        turns_features: see :meth:`turning_features`.
    """

    turns_features = False

    def __init__(self, folder: str | Path) -> None:
        """Open a cache; shards are checked and read when their images are asked for.

        Raises:
            UserError: when the folder holds no finished cache, or one that contradicts itself.
        """
        self.folder = folder = Path(folder)
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
        self._lock, self._locks = Lock(), dict[int, Lock]()
        self._checked = CheckedFiles(folder)
        self._places = self.manifest.places()

    def __len__(self) -> int:
        return len(self.manifest.images)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One image, counted from the end where ``index`` is negative; a list of them for a slice.

        Raises:
            UserError: when a shard is damaged.
        """
        if isinstance(index, slice):
            return [self[position] for position in range(len(self))[index]]
        index = range(len(self))[index]
        features = {name: values[0] for name, values in self.features([index]).items()}
        return Sample(self.dataset.images[index], features, self.targets(index))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        settings, spec = self.manifest.settings, self.feature_spec
        layers = ", ".join(
            f"{layer.name} {layer.channels}x{spec.height // layer.stride}x{spec.width // layer.stride}"
            for layer in spec.layers
        )
        classes, objects = len(self.dataset.categories), sum(len(known.labels) for known in self.dataset.objects)
        return (
            f"FeatureCache({str(self.folder)!r}: {len(self)} images, {classes} classes, {objects} objects, "
            f"{settings.backbone} at {sides(spec.height, spec.width)}, {layers}, {settings.dtype})"
        )

    def require_objects(self, purpose: str) -> None:
        """Refuse a cache in which nothing counts: crowd regions are neither learned nor scored.

        Args:
            purpose: what is to be done with it, such as "train on".

        Raises:
            UserError: when it has no object, or crowd regions only; the sentence says which.
        """
        if counted_objects(self.dataset):
            return
        crowds = sum(len(objects.crowd) for objects in self.dataset.objects)
        reason = f"all its {crowds} boxes are crowd regions (iscrowd)" if crowds else "it has no boxes"
        raise UserError(
            f"{self.folder} holds nothing to {purpose}: {reason} in {len(self)} images; "
            "'detheads data validate' says what becomes of a dataset's boxes."
        )

    @property
    def shard_numbers(self) -> tuple[int, ...]:
        """The shard that each image's features lie in."""
        return tuple(number for number, _ in self._places)

    @property
    def has_flips(self) -> bool:
        return self.manifest.settings.flips

    @property
    def can_mirror(self) -> bool:
        """Whether it can be asked for mirrored images."""
        return self.has_flips or self.turns_features

    @property
    def sha256(self) -> str:
        """Digest of the manifest, which holds the digests of everything else; new annotations change it."""
        return atomic.sha256_of(self.folder / MANIFEST_NAME)

    @property
    def features_sha256(self) -> str:
        """Digest of settings, pictures and shards: what stays when the cache is given new annotations."""
        return self.manifest.features_sha256

    @property
    def annotations_sha256(self) -> str:
        """Digest of boxes, classes and the list of images."""
        return self.manifest.annotations_sha256

    def restricted(self, categories: Sequence[Category]) -> "FeatureCache":
        """The same features with the objects of some of the dataset's categories only."""
        view = copy(self)
        view.dataset = self.dataset.restricted(categories)
        return view

    def turning_features(self) -> "FeatureCache":
        """The same cache, whose mirrored images are the feature maps of the plain ones, turned from left to right.

        That needs no features of mirrored images. A backbone gives a mirrored image other features than these; how
        much a head loses by it is in ``docs/features.md``.
        """
        view = copy(self)
        view.turns_features = True
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
        found = self.stored(indices, flipped, layers).features()
        for values in found.values():
            bad = first_not_finite(values)
            if bad is not None:
                name = self.manifest.images[indices[bad]].file_name
                raise UserError(f"{self.folder} holds features of {name} that are not finite; build the cache again.")
        return found

    def stored(
        self,
        indices: Sequence[int],
        flipped: Sequence[bool] | None = None,
        layers: Sequence[str] | None = None,
        *,
        pin: bool = False,
    ) -> StoredRows:
        """Features as they are stored, read into memory once; several threads may do so at a time.

        Whether they are finite is not looked at, unlike in :meth:`features`, whose arguments these are.

        Args:
            pin: into memory that a GPU copies from by itself.

        Raises:
            UserError: as :meth:`features`.
        """
        flipped = flipped or [False] * len(indices)
        if any(flipped) and not self.can_mirror:
            raise UserError(f"{self.folder} holds no mirrored images; build it with --flips.")
        turned = torch.tensor(flipped, pin_memory=pin) if self.turns_features and any(flipped) else None
        names = tuple(layers or self.feature_spec.names)
        kinds = stored_tensors(self.manifest.settings)

        def empty(name: str) -> Tensor:
            dtype, shape = kinds[name]
            return torch.empty((len(indices), *shape), dtype=dtype, pin_memory=pin)

        values = {name: empty(name) for name in names}
        scales = {name: empty(name + SCALE_SUFFIX) for name in names if name + SCALE_SUFFIX in kinds}
        wanted: dict[ShardReader, list[tuple[str, int, Tensor]]] = defaultdict(list)
        for position, (index, mirror) in enumerate(zip(indices, flipped, strict=True)):
            shard, row = self._locate(index)
            for suffix, tensors in (("", values), (SCALE_SUFFIX, scales)):
                for name, rows in tensors.items():
                    key = name + (FLIPPED_SUFFIX if mirror and turned is None else "") + suffix
                    wanted[shard].append((key, row, rows[position]))
        for shard, its_rows in wanted.items():
            shard.read(its_rows)
        return StoredRows(values, scales, turned)

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
        if image_entry(image.id, image.file_name, image.sha256, letterbox) != image:
            raise UserError(
                f"{self.folder} holds {image.file_name} letterboxed in another way than this version does; "
                "build the cache again in another folder."
            )
        return letterbox

    def _locate(self, index: int) -> tuple[ShardReader, int]:
        """The shard of an image, checked when it is first asked for by one thread while others go on; and its row."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a cache of {len(self)}")
        number, row = self._places[index]
        with self._lock:
            lock = self._locks.setdefault(number, Lock())
        with lock:
            if number not in self._shards:
                entry = self.manifest.shards[number]
                self._shards[number] = ShardReader(self.folder, entry, self.manifest.settings, self._checked)
            return self._shards[number], row

    def _read_dataset(self) -> Dataset:
        path = atomic.inside(self.folder, self.manifest.annotations)
        manifest = self.manifest
        dataset = read_annotations(path, manifest.annotations_sha256, manifest.dataset, manifest.split)
        for image, entry in zip_longest(dataset.images, self.manifest.images):
            if image is None or entry is None or (image.id, image.file_name) != (entry.id, entry.file_name):
                raise UserError(f"{path} lists other images than the manifest; build the cache again.")
            if (image.width, image.height) != (entry.width, entry.height):
                raise UserError(
                    f"{path} says that {image.file_name} has {image.width}x{image.height} pixels, the manifest "
                    f"{entry.width}x{entry.height}; build the cache again."
                )
        return dataset


def counted_objects(dataset: Dataset) -> int:
    """How many objects are learned and scored: all but crowd regions."""
    return sum(int((~objects.crowd).sum()) for objects in dataset.objects)
