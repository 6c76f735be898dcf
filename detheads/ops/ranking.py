"""The best of many scores, in an order that eager PyTorch, compiled PyTorch and an exported graph agree on."""

import torch
from torch import Tensor

from detheads.ops.decisions import decide


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest of ``scores`` ``[B, S]`` and their indices, descending, the lower index first of equals.

    ONNX defines TopK with that order, torch.topk with none. Engines bound the size of a sort by that of a TopK, so
    a graph that is being exported gets the TopK, and PyTorch itself, eager or compiled, a stable sort.
    """
    indices = decide(scores, lambda scores: _order(scores, count), dim=1)
    return scores.gather(1, indices), indices


def _order(scores: Tensor, count: int) -> Tensor:
    if torch.compiler.is_exporting():
        return scores.topk(count, dim=1).indices
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
