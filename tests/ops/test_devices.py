"""The device and the threads that were asked for, or a sentence; never another one."""

import os

import pytest
import torch

from detheads.foundation.cores import THREADS_A_CORE, available_cores, check_threads
from detheads.foundation.errors import UserError
from detheads.ops.devices import pick_device, use_threads


@pytest.mark.parametrize(
    "name", ["meta", "cuda:99", "cuda:-1", "cuda:" + "9" * 30, "gpu", "vulkan", "hpu", "CPU", "c\0"]
)
def test_a_device_that_computes_nothing_here_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"the device .* (cannot be used here|computes nothing).*; give cpu"):
        pick_device(name)


def test_a_device_that_is_here_is_used() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("threads", [-1, 0, 5000, 100_000, 10**30])
def test_threads_beyond_the_machine_are_refused(threads: int) -> None:
    before = torch.get_num_threads()
    with pytest.raises(
        UserError, match=rf"{threads} threads are not possible .*; give 1 to {os.cpu_count() * THREADS_A_CORE}"
    ):
        use_threads(threads)
    assert torch.get_num_threads() == before


def test_possible_threads_are_used() -> None:
    before = torch.get_num_threads()
    use_threads(None)
    assert torch.get_num_threads() == before
    use_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    use_threads(before)
    check_threads(available_cores())
