"""The features that are there already: whole shards of a cache folder, found again by the digests of their pictures."""

import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save as serialise
from torch import Tensor

from detheads.cache.manifest import CacheManifest, ShardEntry
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json

_SHARD = re.compile(r"shard-(\d{5,})\.(?:safetensors|json)")
_ANNOTATIONS = re.compile(r"annotations(?:-[0-9a-f]+)?\.json")


class Stock:
    """Shards of one folder.

    What a finished manifest names and is whole stays as it is until the next one stands: new shards have new names. Of
    a shard that the manifest names only the manifest's digest counts; the record beside a shard counts where a build
    was killed before its manifest.

    Attributes:
        shards: those that are whole.
        damaged: those that are not what was recorded.
    """

    def __init__(self, folder: Path, manifest: CacheManifest | None, check: bool = True) -> None:
        """Find the shards.

        Args:
            manifest: that of a finished cache.
            check: compare each shard with its digest, and leave out those that are damaged.
        """
        self.folder = folder
        names = sorted(path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name))
        finished = {entry.file: entry for entry in manifest.shards} if manifest else {}
        begun = {entry.file: entry for entry in self._records(names) if entry.file not in finished}
        self.shards: list[ShardEntry] = []
        self.damaged: list[ShardEntry] = []
        for _, entry in sorted((finished | begun).items()):
            whole = not check or self._is_whole(entry)
            (self.shards if whole else self.damaged).append(entry)
        self._next = max((int(match[1]) + 1 for match in map(_SHARD.fullmatch, finished | begun) if match), default=0)

    @property
    def pictures(self) -> set[str]:
        """Digests of the pictures whose features are there."""
        return {picture for shard in self.shards for picture in shard.pictures}

    def add(self, tensors: Mapping[str, Tensor], pictures: Collection[str], name: str | None = None) -> None:
        """Write a shard of the features of some pictures, and its record.

        Args:
            name: of the damaged shard that it replaces; a new one when None.
        """
        name = name or self._new_name()
        atomic.write_bytes(self.folder / name, serialise(dict(tensors)))
        self._record(name, atomic.sha256_of(self.folder / name), tuple(pictures))

    def take(self, other: Path, shards: Iterable[ShardEntry]) -> None:
        """Bring shards of another folder into this one: as links to the same file, or copies on another disk."""
        for entry in shards:
            name = self._new_name()
            with atomic.replacing(self.folder / name) as partial:
                partial.unlink()
                try:
                    os.link(other / entry.file, partial)
                except OSError:
                    shutil.copyfile(other / entry.file, partial)
            self._record(name, entry.sha256, entry.pictures)

    def used(self, pictures: set[str]) -> tuple[ShardEntry, ...]:
        """The shards that hold features of any of these pictures; no shard whose pictures others have, too."""
        chosen: list[ShardEntry] = []
        left = set(pictures)
        for entry in sorted(self.shards, key=lambda entry: entry.file):
            if left & set(entry.pictures):
                chosen.append(entry)
                left -= set(entry.pictures)
        return tuple(chosen)

    def clear(self, manifest: CacheManifest) -> None:
        """Make the folder what the manifest, which stands now, says: other shards and annotations are removed."""
        kept = {manifest.annotations}
        for shard in manifest.shards:
            record = (self.folder / shard.file).with_suffix(".json")
            if self._read(record) != shard:
                atomic.write_json(record, shard.model_dump())
            kept |= {shard.file, record.name}
        for path in self.folder.iterdir():
            if path.name not in kept and (_SHARD.fullmatch(path.name) or _ANNOTATIONS.fullmatch(path.name)):
                with suppress(OSError):
                    path.unlink()

    def _new_name(self) -> str:
        self._next += 1
        return f"shard-{self._next - 1:05d}.safetensors"

    def _record(self, name: str, sha256: str, pictures: tuple[str, ...]) -> None:
        entry = ShardEntry(file=name, sha256=sha256, count=len(pictures), pictures=pictures)
        atomic.write_json((self.folder / name).with_suffix(".json"), entry.model_dump())
        self.shards.append(entry)

    def _records(self, names: list[str]) -> Iterable[ShardEntry]:
        for name in names:
            entry = self._read(self.folder / name) if name.endswith(".json") else None
            if entry is not None and Path(entry.file).with_suffix(".json").name == name:
                yield entry

    def _read(self, path: Path) -> ShardEntry | None:
        try:
            return ShardEntry.model_validate(read_json(path))
        except (UserError, ValidationError):
            return None

    def _is_whole(self, entry: ShardEntry) -> bool:
        path = self.folder / entry.file
        named = _SHARD.fullmatch(entry.file) is not None and len(entry.pictures) == entry.count
        return named and path.is_file() and atomic.sha256_of(path) == entry.sha256
