"""What a feature cache says of itself."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detheads.foundation.errors import UserError
from detheads.foundation.geometry import PAD_VALUE, Letterbox
from detheads.foundation.reading import read_json

MANIFEST_NAME = "manifest.json"
ANNOTATIONS_NAME = "annotations.json"

StorageType = Literal["fp16", "bf16", "int8"]
"""How features are stored; ``int8`` comes with one float32 scale an image and channel."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerEntry(_Strict):
    """One stored map: ``[channels, height / stride, width / stride]``."""

    name: str
    channels: int = Field(ge=1)
    stride: int = Field(ge=1)


class Settings(_Strict):
    """Everything that decides what the stored numbers are. Two caches with equal settings are interchangeable."""

    schema_version: Literal[1] = 1
    backbone: str
    timm_name: str
    licence: str
    weights_sha256: str | None
    """None for seeded random weights (tests only)."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    pad_value: int = PAD_VALUE
    layers: tuple[LayerEntry, ...] = Field(min_length=1)
    main: tuple[str, ...] = Field(min_length=1)
    dtype: StorageType
    flips: bool
    """Whether features of each mirrored image are stored too."""

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


class ImageEntry(_Strict):
    """One cached image and how it was letterboxed."""

    id: int
    file_name: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    scale: tuple[float, float]
    pad_left: int
    pad_top: int


class ShardEntry(_Strict):
    """One shard file holding ``count`` consecutive images."""

    file: str
    sha256: str
    count: int = Field(ge=1)


class CacheManifest(_Strict):
    settings: Settings
    dataset: str
    split: str
    annotations_sha256: str
    images: tuple[ImageEntry, ...] = Field(min_length=1)
    shards: tuple[ShardEntry, ...] = Field(min_length=1)
    detheads_version: str


def image_entry(image_id: int, file_name: str, letterbox: Letterbox) -> ImageEntry:
    """The manifest's record of one letterboxed image."""
    return ImageEntry(
        id=image_id,
        file_name=file_name,
        width=letterbox.image_width,
        height=letterbox.image_height,
        scale=letterbox.scale,
        pad_left=letterbox.pad_left,
        pad_top=letterbox.pad_top,
    )


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
        manifest = CacheManifest.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} is not a valid cache manifest ({where}: {first['msg']}); build the cache again."
        ) from None
    if sum(shard.count for shard in manifest.shards) != len(manifest.images):
        raise UserError(
            f"{path} counts {len(manifest.images)} images, its shards another number; build the cache again."
        )
    return manifest
