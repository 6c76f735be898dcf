"""Pictures of a dataset as letterboxed batches with their digests, decoded ahead of the backbone on all cores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detheads.data.dataset import ImageRecord
from detheads.data.pictures import load_picture
from detheads.foundation import atomic
from detheads.foundation.ahead import map_ahead
from detheads.foundation.cores import available_cores
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import letterbox_image
from detheads.ops.threads import compute_alone

OnBad = Callable[[ImageRecord, UserError], None]
"""Called with a picture that cannot be used, which is then left out; it may raise instead."""
OnRemark = Callable[[str], None] | None
"""Called with a sentence about the pixels or frames of a picture that is used."""


@dataclass(frozen=True)
class Batch:
    """Some pictures: records, digests of their files, and uint8 pixels ``[B, 3, height, width]``."""

    records: tuple[ImageRecord, ...]
    digests: tuple[str, ...]
    pixels: Tensor


def load_input(record: ImageRecord, height: int, width: int, on_remark: OnRemark = None) -> NDArray[np.uint8]:
    """One letterboxed image, uint8 ``[height, width, 3]``.

    Raises:
        UserError: when the file cannot be decoded, or its size is not the annotated one (the boxes would be wrong).
    """
    return letterbox_image(load_picture(record, on_remark), width, height)[0]


def _state(record: ImageRecord) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None when it is gone."""
    try:
        state = record.path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def digests(records: Sequence[ImageRecord], on_bad: OnBad, threads: int | None = None) -> Iterator[str | None]:
    """SHA-256 of each picture's file, in the order of ``records``; None where it cannot be read."""
    threads = threads or available_cores()

    def digest(record: ImageRecord) -> str | UserError:
        try:
            return atomic.sha256_of(record.path)
        except UserError as error:
            return error

    for record, found in zip(records, map_ahead(digest, records, ahead=2 * threads, threads=threads), strict=True):
        if isinstance(found, UserError):
            on_bad(record, found)
            yield None
        else:
            yield found


def batches(
    records: Sequence[ImageRecord],
    height: int,
    width: int,
    batch_size: int,
    on_bad: OnBad,
    threads: int | None = None,
    on_remark: OnRemark = None,
    pin: bool = False,
) -> Iterator[Batch]:
    """Batches in the order of ``records``; two, or as many pictures as keep the threads busy, are decoded ahead.

    Args:
        threads: that decode; as many as there are cores for this process when None.
        pin: put pixels into memory that a GPU copies from by itself.

    Raises:
        UserError: when a picture changes while it is read.
    """

    def load(record: ImageRecord) -> tuple[ImageRecord, str, NDArray[np.uint8]] | tuple[ImageRecord, UserError]:
        try:
            before = _state(record)
            digest, pixels = atomic.sha256_of(record.path), load_input(record, height, width, on_remark)
        except UserError as error:
            return record, error
        if _state(record) != before:
            raise UserError(f"{record.path} was changed while it was read; run the same command again.")
        return record, digest, pixels

    threads = threads or available_cores()

    def usable() -> Iterator[tuple[ImageRecord, str, NDArray[np.uint8]]]:
        for loaded in map_ahead(load, records, ahead=max(3 * batch_size - 1, 2 * threads), threads=threads):
            if len(loaded) == 2:
                on_bad(*loaded)
            else:
                yield loaded

    def together(loaded: list[tuple[ImageRecord, str, NDArray[np.uint8]]]) -> Batch:
        names, keys, images = zip(*loaded, strict=True)
        pixels = torch.from_numpy(np.stack(images))
        return Batch(names, keys, (pixels.pin_memory() if pin else pixels).permute(0, 3, 1, 2))

    pictures = usable()
    yield from map_ahead(together, iter(lambda: list(islice(pictures, batch_size)), []), ahead=1, start=compute_alone)
