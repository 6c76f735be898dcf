"""What a backbone computes for one image."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from detheads.backbones.backbone import Backbone


@torch.inference_mode()
def backbone_cost(backbone: Backbone) -> tuple[int, int]:
    """Parameters, and floating-point operations an image (two a multiply-add), by one pass without data.

    Args:
        backbone: moved to the meta device, so that it has no weights afterwards.
    """
    backbone, spec = backbone.to("meta"), backbone.feature_spec
    with FlopCounterMode(display=False) as counter:
        backbone(torch.empty(1, 3, spec.height, spec.width, device="meta"))
    return sum(parameter.numel() for parameter in backbone.parameters()), counter.get_total_flops()
