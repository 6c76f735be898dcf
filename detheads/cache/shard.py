"""One shard file (safetensors), read a row at a time.

Rows are read from the file rather than through a memory map: mapped pages count as the process's memory and
grow with the dataset, and one read an image is as fast (``detheads bench train`` measures it).
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detheads.cache.checked import CheckedFiles
from detheads.cache.manifest import Settings, ShardEntry
from detheads.cache.storage import stored_tensors
from detheads.foundation import atomic
from detheads.foundation.errors import UserError

_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I8": torch.int8}
_LONGEST_HEADER = 2**20
"""Bytes; a header takes about 100 a tensor, and there are at most four tensors a layer."""


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

    def __init__(
        self, folder: Path, entry: ShardEntry, settings: Settings, checked: CheckedFiles | None = None
    ) -> None:
        """Check a shard and read where its tensors lie.

        Args:
            checked: what is known of the folder's files; without it the whole file is read.

        Raises:
            UserError: when the file is not the recorded one, or does not hold what the manifest says.
        """
        self.path = atomic.inside(folder, entry.file)
        check_shard(folder, entry, checked)
        self._slots = _read_header(self.path)
        found = {name: (slot.dtype, slot.shape) for name, slot in self._slots.items()}
        expected = {name: (dtype, (entry.count, *shape)) for name, (dtype, shape) in stored_tensors(settings).items()}
        if found != expected:
            raise UserError(
                f"{self.path} does not hold what the manifest says ({entry.count} images of "
                f"{', '.join(expected)}); build the cache again."
            )

    def read(self, wanted: Iterable[tuple[str, int, Tensor]]) -> None:
        """Read rows into tensors, in the order in which they lie in the file.

        Args:
            wanted: name and row of the shard's tensor, and the contiguous CPU tensor of the stored type that it fills.

        Raises:
            UserError: when the file ends early.
        """
        places = [(self._slots[name], row, into) for name, row, into in wanted]
        with self.path.open("rb", buffering=0) as file:
            for slot, row, into in sorted(places, key=lambda place: place[0].start + place[1] * place[0].row_bytes):
                file.seek(slot.start + row * slot.row_bytes)
                # NumPy has no bf16, so all types are filled as bytes.
                if file.readinto(into.flatten().view(torch.uint8).numpy().data) != slot.row_bytes:
                    raise UserError(
                        f"{self.path} ended early while it was read; check it with 'detheads cache verify'."
                    )


def check_shard(folder: Path, entry: ShardEntry, checked: CheckedFiles | None = None) -> None:
    """Compare a shard file with its recorded SHA-256.

    Raises:
        UserError: when it is missing or differs in a single bit.
    """
    path = atomic.inside(folder, entry.file)
    if not path.is_file():
        raise UserError(
            f"{path} is missing; run the same 'detheads cache build' again, which makes only missing shards anew."
        )
    whole = atomic.sha256_of(path) == entry.sha256 if checked is None else checked.has(path, entry.sha256)
    if not whole:
        raise UserError(
            f"{path} is damaged (its SHA-256 differs from the manifest's); "
            "run the same 'detheads cache build' again, which makes only damaged shards anew."
        )


def _read_header(path: Path) -> dict[str, _Slot]:
    """Tensor name -> place in the file. Format: 8 bytes length, JSON, data (safetensors README, 'Format').

    Raises:
        UserError: when the header is none, or its tensors do not fill the file one behind another.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        header.pop("__metadata__", None)
        end, slots = 8 + length, {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
            row_bytes = math.prod(shape[1:]) * dtype.itemsize
            slots[name] = _Slot(dtype, shape, end, row_bytes)
            start, end = end, end + shape[0] * row_bytes
            if entry["data_offsets"] != [start - 8 - length, end - 8 - length]:
                raise ValueError("overlapping tensors")
        if end != size:
            raise ValueError("another size")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise UserError(f"{path} is not a shard of a feature cache (its header is unusable); build it again.") from None
    return slots
