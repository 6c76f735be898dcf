"""How a cache build begins: one builder at a time, and a recorded plan that a later run goes on with."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detheads.cache.manifest import ANNOTATIONS_NAME, Settings
from detheads.data.dataset import Dataset
from detheads.foundation import atomic, claims
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json

CACHE = claims.Kind("build.json", "a feature cache", "building the cache")
SHARD_BYTES = 64 * 2**20
"""Aimed size of a shard: small enough to lose little when killed, large enough to keep file counts low."""


@contextmanager
def planned(folder: Path, dataset: Dataset, settings: Settings) -> Iterator[int]:
    """Build the cache ``folder`` alone, a new one or one that was begun with the same settings, images and boxes.

    Yields:
        Images in a shard, as begun, even if this version would choose another number.

    Raises:
        UserError: when the folder holds something else, another process builds it, or the disk is too small.
    """
    per_shard = max(1, min(256, SHARD_BYTES // settings.bytes_per_image))
    described = {"settings": settings.model_dump(mode="json")}
    with claims.claimed(folder, CACHE, described, {"images_per_shard": per_shard}) as recorded:
        annotations, coco = folder / ANNOTATIONS_NAME, dataset.coco_json()
        if annotations.exists() or any(folder.glob("shard-*")):
            if not annotations.is_file() or read_json(annotations) != coco:
                raise UserError(f"{folder} was begun with other images or boxes; choose another folder with -o.")
        else:
            require_space(folder, len(dataset.images) * settings.bytes_per_image)
            atomic.write_json(annotations, coco, indent=None)
        match recorded.get("images_per_shard"):
            case int(count) if count > 0:
                yield count
            case _:
                raise UserError(
                    f"{folder / CACHE.record} does not say how many images a shard has; choose another folder with -o."
                )


def require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the cache needs {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; "
            "use --dtype int8, a smaller --size or another disk."
        )
