"""Depth maps beside the pictures of a dataset: a layer of a cache that no backbone gives.

A folder holds a map for each picture, under the picture's name with another ending: ``.npy`` of any number type, or
``.png`` of 16 bits (8 will do). Its numbers are **inverse** depths, larger where nearer, as networks for relative depth
give them and ``1 / metres`` is; each picture may have a scale of its own. What is not above zero, or no number, is
unknown, and so is the padding of the letterbox.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.cache.manifest import Settings
from detheads.data.dataset import ImageRecord
from detheads.foundation import atomic
from detheads.foundation.arrays import read_arrays
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import Letterbox
from detheads.foundation.images import load_grey

LARGEST_MAP = 1 << 28
"""Bytes of a map, unpacked: 67 million numbers of four bytes."""
MOSTLY = 0.5
"""Share of a cell's pixels that have to be known for the cell to be."""


class DepthMaps:
    """The depth maps of some pictures.

    Attributes:
        paths: the map of each picture.
    """

    def __init__(self, folder: str | Path, pictures: Sequence[ImageRecord]) -> None:
        """Find the maps.

        Raises:
            UserError: when a picture has none.
        """
        self.paths = {record: _map_of(Path(folder), record) for record in pictures}

    @cached_property
    def sha256(self) -> str:
        """Digest of which picture has which map: features beside other maps are other features."""
        digest = hashlib.sha256()
        for record, path in sorted(self.paths.items(), key=lambda item: item[0].file_name):
            digest.update(f"{record.file_name}\0{atomic.sha256_of(path)}\n".encode())
        return digest.hexdigest()

    def on_grid(self, records: Sequence[ImageRecord], settings: Settings) -> Tensor:
        """The maps of some pictures as a cache of these settings holds them.

        Returns:
            float32 ``[B, 1, H / stride, W / stride]``, letterboxed as the pictures are, from 0 (unknown) to 1 (nearest
            point of the picture).

        Raises:
            UserError: when a map cannot be read, or has other proportions than its picture.
        """
        return torch.stack([self._on_grid(record, settings) for record in records])

    def _on_grid(self, record: ImageRecord, settings: Settings) -> Tensor:
        values = _read(self.paths[record], record)
        known = (values > 0) & values.isfinite()
        values = torch.where(known, values, 0.0)
        values = values / values.max().clamp(min=torch.finfo(torch.float32).tiny)
        box = Letterbox.fit(record.width, record.height, settings.width, settings.height)
        both = torch.stack((values, known.float()))[None]  # [1, 2, h, w]
        resized = F.interpolate(both, size=(box.resized_height, box.resized_width), mode="area")
        right = settings.width - box.pad_left - box.resized_width
        below = settings.height - box.pad_top - box.resized_height
        canvas = F.pad(resized, (box.pad_left, right, box.pad_top, below))
        stride = settings.depth_stride
        total, share = F.avg_pool2d(canvas, stride)[0]  # [H / stride, W / stride] each
        return torch.where(share >= MOSTLY, total / share.clamp(min=MOSTLY), 0.0)[None]


def _map_of(folder: Path, record: ImageRecord) -> Path:
    name = Path(record.file_name)
    found = [atomic.inside(folder, str(name.with_suffix(ending)), links=True) for ending in (".npy", ".png")]
    there = next((path for path in found if path.is_file()), None)
    if there is None:
        raise UserError(
            f"{folder} holds no depth map of {record.file_name}: neither {name.with_suffix('.npy')} nor "
            f"{name.with_suffix('.png')}; every picture needs one."
        )
    return there


def _read(path: Path, record: ImageRecord) -> Tensor:
    """float32 ``[h, w]``."""
    values = read_arrays(path, LARGEST_MAP) if path.suffix == ".npy" else load_grey(path)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise UserError(f"{path} is no depth map: it does not hold one table of numbers, [height, width].")
    height, width = values.shape
    if abs(width * record.height - height * record.width) > max(record.width, record.height):
        raise UserError(
            f"{path} has {width}x{height} numbers, its picture {record.file_name} has {record.width}x{record.height} "
            "pixels: a depth map may be smaller, but not of other proportions."
        )
    return torch.from_numpy(values.astype(np.float32))
