"""What the processes of one training share while a loss is computed."""

import torch
from torch import Tensor, distributed


def mean_across_processes(count: Tensor, least: float = 0.0) -> Tensor:
    """The mean of ``count`` over the processes that train together; itself in a single process.

    A loss that divides by the number of positives divides by this instead: gradients are averaged over processes, and
    the average of ``sum / mean count`` is the sum over the global batch by its count, as one process would have it.

    Args:
        count: a scalar on the training's device.
        least: what the sum over the processes counts as at least, so that a division by its mean is one by something.
    """
    if not _several():
        return count.clamp(min=least)
    return total_across_processes(count).clamp(min=least) / distributed.get_world_size()


def mean_number(number: int, like: Tensor) -> Tensor:
    """The same of a number that the program knows, 1 in all at least: of positives, say.

    Args:
        like: float32 on the training's device.
    """
    # Filled there: a tensor that is made here would be copied while everything waits.
    return mean_across_processes(like.new_full((), number), least=1.0)


def total_across_processes(values: Tensor) -> Tensor:
    """The sum of ``values``, float32 of any shape, over the processes that train together; without a gradient."""
    total = values.detach().to(torch.float32, copy=_several())
    if _several():
        distributed.all_reduce(total)
    return total


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
