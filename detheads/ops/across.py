"""What the processes of one training share while a loss is computed."""

import torch
from torch import Tensor, distributed


def mean_across_processes(count: Tensor) -> Tensor:
    """The mean of ``count`` over the processes that train together; itself in a single process.

    A loss that divides by the number of positives divides by this instead: gradients are averaged over processes, and
    the average of ``sum / mean count`` is the sum over the global batch by its count, as one process would have it.

    Args:
        count: a scalar on the training's device.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return count
    total = count.detach().to(torch.float32, copy=True)
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
