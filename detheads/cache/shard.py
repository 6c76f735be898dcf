"""One shard file (safetensors), read a row at a time.

Rows are read from the file rather than through a memory map: mapped pages count as the process's memory and
grow with the dataset, and one read an image is as fast (``detheads bench train`` measures it).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detheads.cache.manifest import ShardEntry
from detheads.foundation import atomic
from detheads.foundation.errors import UserError

_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I8": torch.int8}


@dataclass(frozen=True)
class _Slot:
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    row_bytes: int


class ShardReader:
    """Random access to the rows of one shard. The file's SHA-256 is checked once.

    The file is open only while a row is read: a large cache has more shards than a process may hold open.
    """

    def __init__(self, folder: Path, entry: ShardEntry) -> None:
        self.path = atomic.inside(folder, entry.file)
        check_shard(folder, entry)
        self._slots = _read_header(self.path)
        if any(slot.shape[0] != entry.count for slot in self._slots.values()):
            raise UserError(f"{self.path} does not hold the manifest's {entry.count} images; build the cache again.")

    def row(self, name: str, index: int) -> Tensor:
        """Row ``index`` of tensor ``name``, in its stored type, without the leading axis."""
        slot = self._slots[name]
        data = bytearray(slot.row_bytes)
        with self.path.open("rb", buffering=0) as file:
            file.seek(slot.start + index * slot.row_bytes)
            read = file.readinto(data)
        if read != slot.row_bytes:
            raise UserError(f"{self.path} ended early while it was read; check it with 'detheads cache verify'.")
        return torch.frombuffer(data, dtype=slot.dtype).view(slot.shape[1:])

    def __contains__(self, name: str) -> bool:
        return name in self._slots


def check_shard(folder: Path, entry: ShardEntry) -> None:
    """Compare a shard file with its recorded SHA-256.

    Raises:
        UserError: when it is missing or differs in a single bit.
    """
    path = atomic.inside(folder, entry.file)
    if not path.is_file():
        raise UserError(
            f"{path} is missing; run the same 'detheads cache build' again, which makes only missing shards anew."
        )
    if atomic.sha256_of(path) != entry.sha256:
        raise UserError(
            f"{path} is damaged (its SHA-256 differs from the manifest's); "
            "run the same 'detheads cache build' again, which makes only damaged shards anew."
        )


def _read_header(path: Path) -> dict[str, _Slot]:
    """Tensor name -> place in the file. Format: 8 bytes length, JSON, data (safetensors README, 'Format')."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    slots = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        rows = entry["shape"][0]
        slots[name] = _Slot(_TYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + start, (end - start) // rows)
    return slots
