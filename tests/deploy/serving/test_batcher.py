"""Which requests run together, and when."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from detheads.deploy.serving.batcher import Batcher, Ran

Pictures = np.ndarray[Any, np.dtype[np.uint8]]


class Model:
    """Gives each picture its first pixel back, and remembers the batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.batches = seconds, []

    def run(self, images: Pictures) -> dict[str, tuple[Pictures, ...]]:
        self.batches.append(images[:, 0, 0, 0].tolist())
        time.sleep(self.seconds)
        if 255 in self.batches[-1]:
            raise RuntimeError("a white picture")
        return {"head": (images[:, 0, 0, 0],)}


def pictures(*values: int) -> Pictures:
    return np.stack([np.full((3, 2, 2), value, np.uint8) for value in values])


def play(model: Model, scene: Callable[[Batcher], Awaitable[None]], *, others: int = 0, wait: float = 0.0) -> None:
    """Run a scene with a batcher of up to 4 pictures; ``others``: requests on their way that never come."""

    async def run() -> None:
        batcher = Batcher(
            model.run,
            max_batch=4,
            max_wait=wait,
            on_the_way=lambda: others,
            on_batch=lambda pictures, seconds: None,
        )
        await scene(batcher)
        await batcher.close()

    asyncio.run(run())


def values(ran: Ran) -> list[int]:
    return ran.rows["head"][0].tolist()


def test_what_arrives_while_the_model_is_busy_runs_together_in_its_order() -> None:
    model = Model(seconds=0.05)

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(pictures(0)))
        await asyncio.sleep(0.02)
        found = await asyncio.gather(first, *(batcher.submit(pictures(value)) for value in range(1, 7)))
        assert [values(ran) for ran in found] == [[value] for value in range(7)]
        assert [ran.batch for ran in found] == [1, 4, 4, 4, 4, 2, 2]
        assert found[1].waited > 0.01
        assert found[1].took >= 0.05

    play(model, scene)
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_requests_of_several_pictures_are_never_torn() -> None:
    model = Model()

    async def scene(batcher: Batcher) -> None:
        requests = [pictures(1, 2, 3), pictures(4, 5), pictures(6), pictures(7, 8)]
        found = await asyncio.gather(*map(batcher.submit, requests))
        assert [values(ran) for ran in found] == [[1, 2, 3], [4, 5], [6], [7, 8]]

    play(model, scene)
    assert model.batches == [[1, 2, 3], [4, 5, 6], [7, 8]]


@pytest.mark.parametrize(("others", "least", "most"), [(0, 0.0, 0.1), (5, 0.15, 0.5)])
def test_a_picture_waits_for_others_that_are_on_their_way_and_no_longer_than_the_bound(
    others: int, least: float, most: float
) -> None:
    model = Model()

    async def scene(batcher: Batcher) -> None:
        ran = await batcher.submit(pictures(1))
        assert least <= ran.waited < most

    play(model, scene, others=others, wait=0.15)


def test_a_full_batch_does_not_wait() -> None:
    async def scene(batcher: Batcher) -> None:
        found = await asyncio.gather(*(batcher.submit(pictures(value)) for value in range(4)))
        assert max(ran.waited for ran in found) < 1

    play(Model(), scene, others=9, wait=5)


def test_the_picture_of_a_client_that_has_gone_is_not_run() -> None:
    model = Model(seconds=0.05)

    async def scene(batcher: Batcher) -> None:
        tasks = [asyncio.create_task(batcher.submit(pictures(value))) for value in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        running = asyncio.create_task(batcher.submit(pictures(7)))
        await asyncio.sleep(0.02)
        running.cancel()  # while it runs
        assert values(await batcher.submit(pictures(8))) == [8]

    play(model, scene)
    assert model.batches == [[0, 2], [7], [8]]


def test_a_batch_that_fails_fails_for_each_of_its_requests_and_for_no_other() -> None:
    async def scene(batcher: Batcher) -> None:
        found = await asyncio.gather(*(batcher.submit(pictures(value)) for value in (1, 255)), return_exceptions=True)
        assert [str(error) for error in found] == ["a white picture"] * 2
        assert values(await batcher.submit(pictures(3))) == [3]

    play(Model(), scene)
