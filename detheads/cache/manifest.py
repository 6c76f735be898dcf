"""What a feature cache says of itself."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass

from detheads.backbones.features import DEPTH
from detheads.backbones.spec import Precision
from detheads.foundation.entry import Entry
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import PAD_VALUE, Letterbox
from detheads.foundation.reading import read_bytes, read_json
from detheads.foundation.text import json_text

MANIFEST_NAME = "manifest.json"
ANNOTATIONS_NAME = "annotations.json"
"""Name of the annotations of caches of schema 1; later ones carry a part of their digest in their name."""
SCHEMA: Literal[2] = 2
PIXEL_RULE = 2
"""Raised whenever a picture file becomes other input pixels than before (pixel types, letterbox)."""

StorageType = Literal["fp16", "bf16", "int8"]
"""How features are stored; ``int8`` comes with one float32 scale an image and channel."""


class LayerEntry(Entry):
    """One stored map: ``[channels, height / stride, width / stride]``."""

    name: str
    channels: int = Field(ge=1, le=2**20)
    stride: int = Field(ge=1, le=2**16)


class Settings(Entry):
    """Everything but the pictures that decides what the stored numbers are.

    Features of one picture under equal settings are interchangeable, whichever cache they are in.
    """

    schema_version: Literal[1, 2] = SCHEMA
    """Schema 1 kept no digests of pictures: it is read, but neither grown nor given new annotations."""
    backbone: str
    backbone_file_sha256: str | None = None
    """Digest of the ``--backbone-file`` that defines the backbone; None for one that this package knows."""
    timm_name: str
    licence: str
    weights_sha256: str | None
    """None for seeded random weights (tests only)."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    height: int = Field(ge=1, le=2**16)
    width: int = Field(ge=1, le=2**16)
    pad_value: int = PAD_VALUE
    pixel_rule: int = 1
    layers: tuple[LayerEntry, ...] = Field(min_length=1)
    main: tuple[str, ...] = Field(min_length=1)
    dtype: StorageType
    flips: bool
    """Whether features of each mirrored image are stored too."""
    precision: Precision = "fp32"
    """What the backbone computed in. Not written where it is fp32, so that earlier caches keep their digests."""
    depth_sha256: str | None = None
    """Digest of the depth maps in the layer ``depth``. Not written where there are none."""

    @model_serializer(mode="wrap")
    def _without_the_usual(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        if self.precision == "fp32":
            del values["precision"]
        if self.depth_sha256 is None:
            del values["depth_sha256"]
        return values

    @model_validator(mode="after")
    def _is_consistent(self) -> "Settings":
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names) or not set(self.main) <= set(names):
            raise ValueError("layers have one name twice, or the main ones are not among them")
        if any(self.height % layer.stride or self.width % layer.stride for layer in self.layers):
            raise ValueError("the input sides are no multiples of a layer's stride")
        depth = [layer for layer in self.layers if layer.name == DEPTH]
        if bool(depth) != (self.depth_sha256 is not None) or any(layer.channels != 1 for layer in depth):
            raise ValueError("a layer of depth has one channel, and a digest of its maps")
        if DEPTH in self.main:
            raise ValueError("depth is no feature of a backbone")
        return self

    @property
    def depth_stride(self) -> int:
        """Stride of the layer of depth; ``StopIteration`` without one."""
        return next(layer.stride for layer in self.layers if layer.name == DEPTH)

    @property
    def values_per_image(self) -> int:
        """Stored numbers an image, both orientations counted."""
        grid = sum(
            layer.channels * (self.height // layer.stride) * (self.width // layer.stride) for layer in self.layers
        )
        return grid * (2 if self.flips else 1)

    @property
    def bytes_per_image(self) -> int:
        """Stored bytes an image."""
        if self.dtype == "int8":
            scales = 4 * sum(layer.channels for layer in self.layers) * (2 if self.flips else 1)
            return self.values_per_image + scales
        return 2 * self.values_per_image


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ImageEntry:
    """One cached image and how it was letterboxed.

    A dataclass with slots, since there may be a hundred thousand of them.
    """

    id: int
    file_name: str
    sha256: str = ""
    """Digest of the picture file; empty in caches of schema 1."""
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    scale: tuple[float, float]
    pad_left: int
    pad_top: int


class ShardEntry(Entry):
    """One shard file with the features of ``count`` pictures, a row each."""

    file: str
    sha256: str
    count: int = Field(ge=1, le=2**16)
    pictures: tuple[str, ...] = ()
    """Digest of the picture of each row; empty in caches of schema 1, whose rows follow the order of the images."""


class PartEntry(Entry):
    """Of a cache that is a part of a divided build: which part, and what parts of the same build have in common."""

    number: int = Field(ge=1)
    of: int = Field(ge=1)
    plan_sha256: str
    """Digest of what is divided: the whole list of pictures, and how many a shard takes."""
    annotations_sha256: str
    """Digest of the boxes and classes of all parts together."""


class CacheManifest(Entry):
    settings: Settings
    dataset: str
    split: str
    annotations: str = ANNOTATIONS_NAME
    """File name of the boxes and classes, a COCO object."""
    annotations_sha256: str
    """Digest of that file: what may change without another extraction (see :attr:`features_sha256`)."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Boxes that the dataset's reader left out or clipped: reason -> count."""
    skipped: dict[str, str] = Field(default_factory=dict)
    """What was left out with ``--skip-bad``: file or annotation -> why."""
    images: tuple[ImageEntry, ...] = Field(min_length=1)
    shards: tuple[ShardEntry, ...] = Field(min_length=1)
    part: PartEntry | None = None
    """None for a whole cache."""
    detheads_version: str

    @property
    def features_sha256(self) -> str:
        """Digest of what the features are: settings, pictures in their order, and shards; boxes are no part of it."""
        images = [(image.sha256, image.width, image.height) for image in self.images]
        shards = [(shard.pictures, shard.sha256) for shard in self.shards]
        content = json.dumps([self.settings.model_dump(mode="json"), images, shards], allow_nan=False)
        return hashlib.sha256(content.encode()).hexdigest()

    @model_validator(mode="after")
    def _has_features_of_every_image(self) -> "CacheManifest":
        rows = sum(shard.count for shard in self.shards)
        if self.settings.schema_version == 1:
            if rows != len(self.images):
                raise ValueError(f"it counts {len(self.images)} images, its shards {rows}")
            return self
        if any(len(shard.pictures) != shard.count for shard in self.shards):
            raise ValueError("a shard does not name the picture of each row")
        stored = {picture for shard in self.shards for picture in shard.pictures}
        lost = next((image.file_name for image in self.images if image.sha256 not in stored), None)
        if lost is not None:
            raise ValueError(f"no shard has the features of {lost}")
        return self

    def places(self) -> list[tuple[int, int]]:
        """``(shard, row)`` of each image."""
        rows = [(number, row) for number, shard in enumerate(self.shards) for row in range(shard.count)]
        if self.settings.schema_version == 1:
            return rows
        pictures = [picture for shard in self.shards for picture in shard.pictures]
        place_of = dict(zip(pictures, rows, strict=True))
        return [place_of[image.sha256] for image in self.images]


def image_entry(image_id: int, file_name: str, sha256: str, letterbox: Letterbox) -> ImageEntry:
    """The manifest's record of one letterboxed image."""
    return ImageEntry(
        id=image_id,
        file_name=file_name,
        sha256=sha256,
        width=letterbox.image_width,
        height=letterbox.image_height,
        scale=letterbox.scale,
        pad_left=letterbox.pad_left,
        pad_top=letterbox.pad_top,
    )


def annotations_bytes(document: Mapping[str, Any]) -> bytes:
    """The annotation file of a COCO object."""
    return (json_text(document, indent=None) + "\n").encode()


def read_manifest(cache: Path) -> CacheManifest:
    """Read and validate a cache's manifest.

    Raises:
        UserError: when the folder holds no finished cache, or its manifest contradicts itself.
    """
    path = cache / MANIFEST_NAME
    if not path.is_file():
        unfinished = (cache / "build.json").is_file()
        cure = (
            "run the same 'detheads cache build' again to finish it"
            if unfinished
            else "make one with 'detheads cache build'"
        )
        raise UserError(f"{cache} holds no {'finished ' if unfinished else ''}feature cache; {cure}.")
    try:
        manifest = _validated(path)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        own = first["type"] == "value_error"
        why = str(first["ctx"]["error"]) if own else f"{where}: {first['msg']}"
        raise UserError(f"{path} is not a valid cache manifest ({why}); build the cache again.") from None
    return manifest


def _validated(path: Path) -> CacheManifest:
    """The manifest straight from its bytes: that of a hundred thousand images is never held as Python's lists."""
    try:
        return CacheManifest.model_validate_json(read_bytes(path))
    except ValidationError as error:
        if error.errors()[0]["type"] != "json_invalid":
            raise
    return CacheManifest.model_validate(read_json(path))  # which says what the file is instead
