"""What a head costs: parameters and floating-point operations."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detheads.backbones.features import FeatureSpec
from detheads.headkit.contract import Head


@dataclass(frozen=True)
class Cost:
    """Cost of one image.

    Attributes:
        parameters: learnable ones.
        flops: of convolutions and matrix products, two a multiply-add (``torch.utils.flop_counter``).
        candidates: boxes before suppression.
    """

    parameters: int
    flops: int
    candidates: int


def parameters_of(module: nn.Module) -> int:
    """Number of learnable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@torch.inference_mode()
def measure(head: Head, spec: FeatureSpec) -> Cost:
    """Count by one forward pass without data (on the meta device)."""
    parameters = parameters_of(head)
    head = head.eval().to("meta")
    features = {
        layer.name: torch.empty(
            1, layer.channels, spec.height // layer.stride, spec.width // layer.stride, device="meta"
        )
        for layer in spec.layers
    }
    with FlopCounterMode(display=False) as counter:
        output = head(features)
    return Cost(parameters, counter.get_total_flops(), output.boxes.shape[1])
