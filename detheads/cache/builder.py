"""Build a feature cache: resumable, checksummed, one shard at a time.

Safe against a kill at any moment: a shard is written beside its final name and renamed, then its digest is
recorded in a sidecar; only shards with a matching digest count as done, so the next run continues behind them.
"""

import errno
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import save as serialise
from torch import Tensor

from detheads import __version__
from detheads.backbones.backbone import Backbone
from detheads.cache.images import batches
from detheads.cache.manifest import (
    ANNOTATIONS_NAME,
    MANIFEST_NAME,
    CacheManifest,
    LayerEntry,
    Settings,
    ShardEntry,
    StorageType,
    image_entry,
)
from detheads.cache.plan import planned, require_space
from detheads.cache.storage import FLIPPED_SUFFIX, encode
from detheads.data.dataset import Dataset, ImageRecord
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import Letterbox
from detheads.foundation.progress import Progress, silent
from detheads.foundation.reading import read_json


@dataclass(frozen=True)
class BuildResult:
    images: int
    resumed: int
    """Images that an earlier run had finished."""
    bytes: int


def settings_for(backbone: Backbone, dtype: StorageType = "fp16", flips: bool = False) -> Settings:
    """The cache settings that a backbone implies."""
    spec, features = backbone.spec, backbone.feature_spec
    return Settings(
        backbone=spec.name,
        timm_name=spec.timm_name,
        licence=spec.licence,
        weights_sha256=backbone.weights_sha256,
        mean=spec.mean,
        std=spec.std,
        height=features.height,
        width=features.width,
        layers=tuple(LayerEntry(name=e.name, channels=e.channels, stride=e.stride) for e in features.layers),
        main=features.main,
        dtype=dtype,
        flips=flips,
    )


def build_cache(
    dataset: Dataset,
    backbone: Backbone,
    folder: Path,
    *,
    dtype: StorageType = "fp16",
    flips: bool = False,
    batch_size: int = 8,
    on_progress: Progress = silent,
) -> BuildResult:
    """Extract the features of every image of ``dataset`` into ``folder``, or finish what an earlier run began.

    Run again on a finished cache it makes only missing or damaged shards anew.

    Raises:
        UserError: when the folder holds a cache of other settings or images, the disk is too small, or an image
            cannot be read (finished shards stay).
    """
    if not dataset.images:
        raise UserError(f"{dataset.name} {dataset.split} has no images to cache.")
    settings = settings_for(backbone, dtype, flips)
    try:
        with planned(folder, dataset, settings) as per_shard:
            return _build(dataset, backbone, folder, settings, per_shard, batch_size, on_progress)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise UserError(
            f"the disk of {folder} is full; free some space and run the same command again, "
            "which goes on behind the finished shards."
        ) from None


def _build(
    dataset: Dataset,
    backbone: Backbone,
    folder: Path,
    settings: Settings,
    per_shard: int,
    batch_size: int,
    on_progress: Progress,
) -> BuildResult:
    total = len(dataset.images)
    starts = range(0, total, per_shard)
    shards: dict[int, ShardEntry] = {}
    for start in starts:
        entry = _finished_shard(folder, start // per_shard, min(per_shard, total - start))
        if entry is not None:
            shards[start] = entry
    done = resumed = sum(entry.count for entry in shards.values())
    require_space(folder, (total - resumed) * settings.bytes_per_image)
    on_progress("caching", done, total)
    pending: tuple[int, Future[ShardEntry]] | None = None
    with ThreadPoolExecutor(1) as writer:  # hashes and writes one shard while the next one is computed
        for start in starts:
            if start in shards:
                continue
            records = list(dataset.images[start : start + per_shard])

            def advance(images: int) -> None:
                nonlocal done
                done += images
                on_progress("caching", done, total)

            tensors = _extract(records, backbone, settings, batch_size, advance)
            if pending is not None:
                shards[pending[0]] = pending[1].result()
            pending = start, writer.submit(_write_shard, folder, start // per_shard, tensors, len(records))
        if pending is not None:
            shards[pending[0]] = pending[1].result()
    return _finish(folder, dataset, settings, [shards[start] for start in starts], resumed)


@torch.inference_mode()
def _extract(
    records: list[ImageRecord],
    backbone: Backbone,
    settings: Settings,
    batch_size: int,
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    """All stored tensors of one shard, ``[len(records), ...]`` each, filled batch by batch."""
    shard: dict[str, Tensor] = {}
    # Convolutions run about twice as fast on a CPU with channels last; transformers gain nothing from it.
    memory_format = torch.channels_last if len(settings.main) > 1 else torch.contiguous_format
    backbone.to(memory_format=memory_format)
    device = next(backbone.parameters()).device
    filled = 0
    for images in batches(records, settings.height, settings.width, batch_size):
        inputs = backbone.normalise(images.to(device)).contiguous(memory_format=memory_format)
        views = [("", inputs)]
        if settings.flips:
            views.append((FLIPPED_SUFFIX, inputs.flip(3)))
        for suffix, view in views:
            maps: dict[str, Tensor] = backbone(view)
            for name, features in maps.items():
                for key, values in encode(name + suffix, features.float().cpu(), settings.dtype).items():
                    if key not in shard:
                        shard[key] = torch.empty(len(records), *values.shape[1:], dtype=values.dtype)
                    shard[key][filled : filled + len(images)] = values
        filled += len(images)
        advance(len(images))
    return shard


def _write_shard(folder: Path, number: int, tensors: dict[str, Tensor], count: int) -> ShardEntry:
    path = folder / f"shard-{number:05d}.safetensors"
    atomic.write_bytes(path, serialise(tensors))
    entry = ShardEntry(file=path.name, sha256=atomic.sha256_of(path), count=count)
    atomic.write_json(path.with_suffix(".json"), entry.model_dump())
    return entry


def _finished_shard(folder: Path, number: int, count: int) -> ShardEntry | None:
    """The record of a shard that is whole; None when it has to be made."""
    path = folder / f"shard-{number:05d}.safetensors"
    sidecar = path.with_suffix(".json")
    if not path.is_file() or not sidecar.is_file():
        return None
    try:
        entry = ShardEntry.model_validate(read_json(sidecar))
    except (UserError, ValidationError):
        return None
    whole = (entry.file, entry.count, entry.sha256) == (path.name, count, atomic.sha256_of(path))
    return entry if whole else None


def _finish(folder: Path, dataset: Dataset, settings: Settings, shards: list[ShardEntry], resumed: int) -> BuildResult:
    manifest = CacheManifest(
        settings=settings,
        dataset=dataset.name,
        split=dataset.split,
        annotations_sha256=atomic.sha256_of(folder / ANNOTATIONS_NAME),
        images=tuple(
            image_entry(
                image.id,
                image.file_name,
                Letterbox.fit(image.width, image.height, settings.width, settings.height),
            )
            for image in dataset.images
        ),
        shards=tuple(shards),
        detheads_version=__version__,
    )
    atomic.write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"), indent=None)
    size = sum((folder / shard.file).stat().st_size for shard in manifest.shards)
    return BuildResult(len(manifest.images), resumed, size)
