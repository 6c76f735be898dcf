"""A pass over a cache on two cores: while sums are taken of one batch of images, a thread looks at the next one."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Seen = TypeVar("Seen")

READ_AHEAD = 2
"""Batches that are looked at before they are summed."""


def seen_ahead(images: range, batch: int, see: Callable[[range], Seen]) -> Iterator[tuple[range, Seen]]:
    """``see`` of each batch of ``images``, in order, each with its images.

    The matrix library of numpy gets one thread meanwhile: several of them wait by spinning, which takes the cores from
    the thread that looks ahead and made the whole pass slower than one thread.
    """

    def look(part: range) -> Seen:
        with torch.no_grad():  # a setting of each thread
            return see(part)

    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    waiting: deque[tuple[range, Future[Seen]]] = deque()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(1) as pool:
        for part in parts:
            waiting.append((part, pool.submit(look, part)))
            if len(waiting) > READ_AHEAD:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
