"""The moment at which features, boxes and classes become a cache: its annotations and then its manifest are written."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from detheads import __version__
from detheads.cache.manifest import (
    MANIFEST_NAME,
    CacheManifest,
    ImageEntry,
    PartEntry,
    Settings,
    annotations_bytes,
    image_entry,
)
from detheads.cache.stock import Stock
from detheads.data.dataset import Dataset, ImageRecord
from detheads.foundation import atomic
from detheads.foundation.geometry import Letterbox


def publish_dataset(
    folder: Path,
    known: CacheManifest | None,
    stock: Stock,
    dataset: Dataset,
    settings: Settings,
    key_of: Mapping[ImageRecord, str],
    skipped: Mapping[str, str],
    part: PartEntry | None = None,
) -> CacheManifest:
    """:func:`publish` the pictures, boxes and classes of a dataset.

    Args:
        key_of: digest of each picture.
    """
    images = tuple(
        image_entry(
            image.id,
            image.file_name,
            key_of[image],
            Letterbox.fit(image.width, image.height, settings.width, settings.height),
        )
        for image in dataset.images
    )
    return publish(
        folder,
        known,
        stock,
        settings=settings,
        dataset=dataset.name,
        split=dataset.split,
        annotations=annotations_bytes(dataset.coco_json()),
        images=images,
        dropped=dataset.dropped,
        skipped=skipped,
        part=part,
    )


def publish(
    folder: Path,
    known: CacheManifest | None,
    stock: Stock,
    *,
    settings: Settings,
    dataset: str,
    split: str,
    annotations: bytes,
    images: tuple[ImageEntry, ...],
    dropped: Mapping[str, int],
    skipped: Mapping[str, str],
    part: PartEntry | None = None,
) -> CacheManifest:
    """Make ``folder`` the cache of some images out of the shards in stock, and remove what belongs to no image.

    Args:
        known: the manifest that the folder had; where nothing changes, nothing is written.
    """
    digest = hashlib.sha256(annotations).hexdigest()
    manifest = CacheManifest(
        settings=settings,
        dataset=dataset,
        split=split,
        annotations=f"annotations-{digest[:16]}.json",  # the old ones stay beside them until the manifest is written
        annotations_sha256=digest,
        dropped=dict(dropped),
        skipped=dict(skipped),
        images=images,
        shards=stock.used({image.sha256 for image in images}),
        part=part,
        detheads_version=__version__,
    )
    if known is None or manifest != known.model_copy(update={"detheads_version": __version__}):
        atomic.write_bytes(folder / manifest.annotations, annotations)
        values = manifest.model_dump(mode="json", exclude=None if part else {"part"})
        atomic.write_json(folder / MANIFEST_NAME, values, indent=None)
    stock.clear(manifest)
    return manifest
