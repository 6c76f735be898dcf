"""Images of a dataset as letterboxed batches, decoded ahead of the backbone by a few threads."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detheads.data.dataset import ImageRecord
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.images import load_image


def load_input(record: ImageRecord, height: int, width: int) -> NDArray[np.uint8]:
    """One letterboxed image, uint8 ``[height, width, 3]``.

    Raises:
        UserError: when the file cannot be decoded, or its size is not the annotated one (the boxes would be wrong).
    """
    image = load_image(record.path)
    if image.size != (record.width, record.height):
        raise UserError(
            f"{record.path} has {image.width}x{image.height} pixels, its annotation says "
            f"{record.width}x{record.height}; 'detheads data validate' lists all such images."
        )
    return letterbox_image(image, width, height)[0]


def batches(
    records: Sequence[ImageRecord], height: int, width: int, batch_size: int, threads: int = 2
) -> Iterator[Tensor]:
    """uint8 batches ``[B, 3, height, width]`` in the order of ``records``; two batches are decoded ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        remaining = iter(records)
        for record in remaining:
            waiting.append(pool.submit(load_input, record, height, width))
            if len(waiting) >= 3 * batch_size:
                yield _stack([waiting.popleft() for _ in range(batch_size)])
        while waiting:
            yield _stack([waiting.popleft() for _ in range(min(batch_size, len(waiting)))])


def _stack(images: Sequence[Future[NDArray[np.uint8]]]) -> Tensor:
    return torch.from_numpy(np.stack([image.result() for image in images])).permute(0, 3, 1, 2)  # [B, 3, H, W]
