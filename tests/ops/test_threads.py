"""Threads that work beside a computation."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from detheads.ops.threads import compute_alone


@pytest.fixture
def two_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_a_thread_computes_alone_while_the_others_keep_theirs(two_threads: int) -> None:
    def used() -> int:
        torch.rand(1 << 20).half().float()  # large enough to be shared out
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as plain, ThreadPoolExecutor(1, initializer=compute_alone) as alone:
        assert plain.submit(used).result() == two_threads
        assert alone.submit(used).result() == 1
        assert used() == two_threads
