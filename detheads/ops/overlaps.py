"""How far boxes overlap, pair by pair, without a step in which a device has to tell the program something."""

import torch
from torch import Tensor


def overlaps(first: Tensor, second: Tensor, epsilon: float = 0.0) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019) of box pairs.

    Args:
        first, second: ``[..., 4]`` xyxy with ``x2 >= x1`` and ``y2 >= y1``, in one frame and unit; they are broadcast.
        epsilon: added to the areas that are divided by, in the unit's square; 0 gives NaN for boxes without area.

    Returns:
        ``[...]`` in ``[0, 1]``, and ``[...]`` in ``[-1, 1]``.
    """
    x1, y1, x2, y2 = first.unbind(dim=-1)  # [...] each
    u1, v1, u2, v2 = second.unbind(dim=-1)
    width = torch.minimum(x2, u2) - torch.maximum(x1, u1)
    height = torch.minimum(y2, v2) - torch.maximum(y1, v1)
    common = torch.where((width > 0) & (height > 0), width * height, 0.0)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common
    hull = (torch.maximum(x2, u2) - torch.minimum(x1, u1)) * (torch.maximum(y2, v2) - torch.minimum(y1, v1))
    iou = common / (union + epsilon)
    return iou, iou - (hull - union) / (hull + epsilon)
