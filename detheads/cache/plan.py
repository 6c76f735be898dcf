"""How a cache build begins: one builder at a time, in a folder that holds features of the same settings."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from detheads.cache.manifest import SCHEMA, CacheManifest, Settings, read_manifest
from detheads.foundation import claims
from detheads.foundation.errors import UserError

CACHE = claims.Kind("build.json", "a feature cache", "building the cache")
SHARD_BYTES = 64 * 2**20
"""Aimed size of a shard: small enough to lose little when killed, large enough to keep file counts low."""


@contextmanager
def claimed(folder: Path, settings: Settings, part: str | None = None) -> Iterator[CacheManifest | None]:
    """Work on the cache ``folder`` alone, a new one or one of the same settings.

    Args:
        part: which part of a divided build it is, such as "part 2 of 4".

    Yields:
        The manifest, where the cache was finished before.

    Raises:
        UserError: when the folder holds something else, or another process builds it.
    """
    known = None
    with suppress(UserError):  # a damaged manifest is one that is missing: shards have records of their own
        known = read_manifest(folder)
    if known is not None:
        require_digests(folder, known)
    described = {"settings": settings.model_dump(mode="json")} | ({"part": part} if part else {})
    with claims.claimed(folder, CACHE, described) as recorded:
        if "part" in recorded and part is None:
            raise UserError(f"{folder} is {recorded['part']} of a divided build; choose another folder with -o.")
        yield known


@contextmanager
def full_disk_is_told(folder: Path) -> Iterator[None]:
    """Turn the system's error of a full disk into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise UserError(
            f"the disk of {folder} is full; free some space and run the same command again, "
            "which goes on behind the finished shards."
        ) from None


def require_digests(folder: Path, manifest: CacheManifest) -> None:
    """Refuse a cache of which nobody knows what pictures it was made of.

    Raises:
        UserError: when it is one of schema 1.
    """
    if manifest.settings.schema_version != SCHEMA:
        raise UserError(
            f"{folder} was built by detheads {manifest.detheads_version}, which kept no digests of the pictures: it "
            "can be read, but neither be finished nor compared with pictures nor be given new annotations; "
            "build another one with -o."
        )


def require_equal_settings(folder: Path, found: Settings, wanted: Settings) -> None:
    """Refuse to take features out of a cache that was made in another way.

    Raises:
        UserError: naming the first setting that differs.
    """
    for name, value in wanted:
        if getattr(found, name) != value:
            raise UserError(
                f"{folder} has other features: its {name} is {getattr(found, name)}, not {value}; "
                "features are re-used under equal settings only."
            )


def images_per_shard(settings: Settings) -> int:
    """How many pictures a new shard takes."""
    return max(1, min(256, SHARD_BYTES // settings.bytes_per_image))
