"""The exponential moving average of the weights: what is evaluated and shipped."""

from copy import deepcopy

import torch
from torch import Tensor

from detheads.headkit.contract import Head


class Average:
    """An average of those weights of a head that learn; the others stay as they are. It never waits for their device.

    The decay is warmed up, ``min(decay, (1 + t) / (10 + t))``, because a constant one of 0.9998 would still be mostly
    the initial weights after the two thousand steps of a small run. The first update starts the average.

    Attributes:
        head: a copy with the averaged weights, on the device of the live ones.
        count: updates so far.
    """

    def __init__(self, head: Head, decay: float) -> None:
        self.head, self.decay, self.count = deepcopy(head), decay, 0
        for parameter in self.head.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def update(self, live: Head, keep: Tensor | None = None) -> None:
        """Take the live weights in.

        Args:
            keep: a number on the weights' device; the average stays what it is where that is 1, and not where it is 0.
        """
        share = 1.0 if self.count == 0 else 1.0 - min(self.decay, (1.0 + self.count) / (10.0 + self.count))
        self.count += 1
        pairs = zip(self.head.parameters(), live.parameters(), strict=True)
        learning = [(average, weight) for average, weight in pairs if weight.requires_grad]
        averages: list[Tensor] = [average for average, _ in learning]
        weights: list[Tensor] = [weight for _, weight in learning]
        steps = list(torch._foreach_sub(weights, averages))
        torch._foreach_mul_(steps, share if keep is None else share * (1.0 - keep))
        torch._foreach_add_(averages, steps)
        for average, buffer in zip(self.head.buffers(), live.buffers(), strict=True):
            average.copy_(buffer)
