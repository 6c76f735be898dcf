"""One shard file (safetensors), read a row at a time.

Rows are read with ``pread`` rather than through a memory map: mapped pages count as the process's memory and
grow with the dataset, and one read an image is as fast (``detheads bench train`` measures it).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detheads import atomic
from detheads.cache.manifest import ShardEntry
from detheads.errors import UserError

_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I8": torch.int8}


@dataclass(frozen=True)
class _Slot:
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    row_bytes: int


class ShardReader:
    """Random access to the rows of one shard. The file's SHA-256 is checked when it is opened."""

    def __init__(self, folder: Path, entry: ShardEntry) -> None:
        self.path = atomic.inside(folder, entry.file)
        check_shard(folder, entry)
        self._descriptor = os.open(self.path, os.O_RDONLY)
        self._slots = _read_header(self.path, self._descriptor)

    def row(self, name: str, index: int) -> Tensor:
        """Row ``index`` of tensor ``name``, in its stored type, without the leading axis."""
        slot = self._slots[name]
        data = bytearray(slot.row_bytes)
        if os.preadv(self._descriptor, [data], slot.start + index * slot.row_bytes) != slot.row_bytes:
            raise UserError(f"{self.path} ended early while it was read; check it with 'detheads cache verify'.")
        return torch.frombuffer(data, dtype=slot.dtype).view(slot.shape[1:])

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    def close(self) -> None:
        os.close(self._descriptor)


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


def _read_header(path: Path, descriptor: int) -> dict[str, _Slot]:
    """Tensor name -> place in the file. Format: 8 bytes length, JSON, data (safetensors README, 'Format')."""
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    header = json.loads(os.pread(descriptor, length, 8))
    slots = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        rows = entry["shape"][0]
        slots[name] = _Slot(_TYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + start, (end - start) // rows)
    return slots
