"""Requests that arrive together run together: arrays of pictures, gathered into batches for one model."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.session import Rows


@dataclass(frozen=True)
class Ran:
    """What came of one request.

    Attributes:
        rows: of each head by its name, for the pictures of this request alone.
        waited: seconds until its batch began.
        took: seconds of the batch.
        batch: pictures in it.
    """

    rows: dict[str, Rows]
    waited: float
    took: float
    batch: int


@dataclass(frozen=True)
class _Job:
    images: NDArray[np.uint8]  # [k, 3, H, W], of any layout
    arrived: float
    answer: "asyncio.Future[Ran]"


class Batcher:
    """Gathers pictures and runs one batch after the other in a thread of its own.

    A batch begins when the one before it has ended and it is full, or its oldest picture has waited ``max_wait``
    seconds, or nobody else is on the way who could fill it: a lone client waits for nobody.

    Args:
        run: batch ``[B, 3, H, W]`` -> rows of each head, as :meth:`detheads.deploy.session.BundleSession.run`.
        max_batch: pictures of several requests in a batch; one request may bring more.
        max_wait: seconds.
        on_the_way: how many requests the whole server has accepted and not yet answered.
        on_batch: called with the pictures and seconds of each batch.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.uint8]], dict[str, Rows]],
        *,
        max_batch: int,
        max_wait: float,
        on_the_way: Callable[[], int],
        on_batch: Callable[[int, float], None],
    ) -> None:
        self._run, self._max_batch, self._max_wait = run, max_batch, max_wait
        self._on_the_way, self._on_batch = on_the_way, on_batch
        self._waiting: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, "model")
        self._worker: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def submit(self, images: NDArray[np.uint8]) -> Ran:
        """Run pictures ``[k, 3, H, W]`` in one batch. Cancelled, they are not run."""
        job = _Job(images, perf_counter(), asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._news.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await job.answer

    async def close(self) -> None:
        """Wait for what is being run, and end the thread."""
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        """Run what waits until nothing does."""
        try:
            while batch := await self._gather():
                await self._run_batch(batch)
        finally:
            self._worker = None

    async def _gather(self) -> list[_Job]:
        """The jobs of the next batch, in the order of their arrival; none when nobody waits any more."""
        while True:
            self._waiting = deque(job for job in self._waiting if not job.answer.done())
            if not self._waiting:
                return []
            pictures = sum(len(job.images) for job in self._waiting)
            left = self._waiting[0].arrived + self._max_wait - perf_counter()
            if pictures >= self._max_batch or left <= 0 or self._on_the_way() <= len(self._waiting):
                break
            self._news.clear()
            with suppress(TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
                await asyncio.wait_for(self._news.wait(), left)
        batch = [self._waiting.popleft()]
        room = self._max_batch - len(batch[0].images)
        while self._waiting and len(self._waiting[0].images) <= room:
            batch.append(self._waiting.popleft())
            room -= len(batch[-1].images)
        return batch

    async def _run_batch(self, batch: list[_Job]) -> None:
        began = perf_counter()
        try:
            parts = [job.images for job in batch]
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._run_together, parts)
        except Exception as error:
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(error)
            return
        took = perf_counter() - began
        pictures = sum(len(job.images) for job in batch)
        self._on_batch(pictures, took)
        first = 0
        for job in batch:
            own = slice(first, first + len(job.images))
            first = own.stop
            if not job.answer.done():  # its client may have gone meanwhile
                mine = {head: tuple(array[own] for array in arrays) for head, arrays in rows.items()}
                job.answer.set_result(Ran(mine, began - job.arrived, took, pictures))

    def _run_together(self, parts: list[NDArray[np.uint8]]) -> dict[str, Rows]:
        """In the model's thread, so that the others' requests go on. Each picture is moved into the batch once."""
        batch = np.empty((sum(len(part) for part in parts), *parts[0].shape[1:]), np.uint8)
        return self._run(np.concatenate(parts, out=batch))
