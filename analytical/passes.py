"""A pass over a cache on two cores: while one batch of images is summed, a thread looks at the next one."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from detheads.foundation.ahead import map_ahead

Seen = TypeVar("Seen")

BATCH = 8
"""Images read at once."""

READ_AHEAD = 2
"""Batches that are looked at before they are summed."""

SAVE_SECONDS = 60.0


def pass_over(
    images: range, see: Callable[[range], Seen], take: Callable[[range, Seen], None], save: Callable[[], None]
) -> None:
    """Batch by batch, in order: ``see`` it in a thread, ``take`` what was seen; ``save`` now and then and at the end.

    The matrix library of numpy gets one thread meanwhile: several of them wait by spinning, which takes the cores from
    the thread that looks ahead and made the whole pass slower than one thread.
    """

    def look(batch: range) -> Seen:
        with torch.no_grad():  # a setting of each thread
            return see(batch)

    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    saved = time.monotonic()
    with threadpool_limits(1, user_api="blas"):
        for batch, seen in zip(batches, map_ahead(look, batches, ahead=READ_AHEAD), strict=True):
            take(batch, seen)
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()
    save()
