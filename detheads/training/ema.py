"""The exponential moving average of the weights: what is evaluated and shipped."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from detheads.headkit.contract import Head


def averaged(head: Head, decay: float) -> AveragedModel:
    """An average of ``head``; call ``update_parameters(head)`` after every step.

    The decay is warmed up, ``min(decay, (1 + t) / (10 + t))``, because a constant one of 0.9998 would still be mostly
    the initial weights after the two thousand steps of a small run.
    """

    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        steps = int(count)
        weight = 1.0 - min(decay, (1.0 + steps) / (10.0 + steps))
        torch._foreach_lerp_(list(average), list(current), weight)

    return AveragedModel(head, multi_avg_fn=update)
