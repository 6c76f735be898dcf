"""Images of a dataset as letterboxed batches, decoded ahead of the backbone by a few threads."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detheads.data.dataset import ImageRecord
from detheads.data.pictures import load_picture
from detheads.foundation.ahead import map_ahead
from detheads.foundation.geometry import letterbox_image


def load_input(record: ImageRecord, height: int, width: int) -> NDArray[np.uint8]:
    """One letterboxed image, uint8 ``[height, width, 3]``.

    Raises:
        UserError: when the file cannot be decoded, or its size is not the annotated one (the boxes would be wrong).
    """
    return letterbox_image(load_picture(record), width, height)[0]


def batches(
    records: Sequence[ImageRecord], height: int, width: int, batch_size: int, threads: int = 2
) -> Iterator[Tensor]:
    """uint8 batches ``[B, 3, height, width]`` in the order of ``records``; two batches are decoded ahead."""

    def load(record: ImageRecord) -> NDArray[np.uint8]:
        return load_input(record, height, width)

    images = map_ahead(load, records, ahead=3 * batch_size - 1, threads=threads)
    while batch := list(islice(images, batch_size)):
        yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)  # [B, 3, H, W]
