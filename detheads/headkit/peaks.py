"""Peaks of heatmaps: the one suppression that heads which find objects as points need, inside their graph."""

import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.ops.decisions import decide

FLOOR = -30.0
"""Logit of what cannot be an object: a score of nothing in every precision."""


def peaks(heatmaps: Tensor) -> Tensor:
    """Logits ``[B, K, H, W]``, lowered to :data:`FLOOR` where one of the eight neighbours is higher."""
    return torch.where(decide(heatmaps.detach(), _are_peaks), heatmaps, FLOOR)


def _are_peaks(heatmaps: Tensor) -> Tensor:
    return heatmaps == F.max_pool2d(heatmaps, 3, stride=1, padding=1)
