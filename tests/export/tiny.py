"""A head small enough to trace in a second, for tests of the exporter that do not depend on any real head."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from detheads.heads.contract import FeatureSpec, Head, HeadOutput, Targets


class TinyHead(Head):
    """One 1x1 convolution over the coarsest layer: class logits, box distances and a quality."""

    def __init__(self, spec: FeatureSpec, num_classes: int, bias: float = -1.0) -> None:
        super().__init__()
        self.layer = spec.main_layers[-1]
        self.num_classes = num_classes
        self.predict = nn.Conv2d(self.layer.channels, num_classes + 5, 1)
        nn.init.normal_(self.predict.weight, std=0.5 / self.layer.channels**0.5)
        nn.init.constant_(self.predict.bias, bias)

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        grid = features[self.layer.name]
        stride = self.layer.stride
        dense = self.predict(grid).flatten(2).transpose(1, 2)  # [B, N, K + 5]
        height, width = grid.shape[2:]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centre = torch.stack((x, y), dim=-1).reshape(-1, 2) * stride  # [N, 2]
        reach = dense[..., self.num_classes + 1 :].sigmoid() * 3 * stride
        boxes = torch.cat((centre - reach[..., :2], centre + reach[..., 2:]), dim=-1)
        return HeadOutput(boxes, dense[..., : self.num_classes], dense[..., self.num_classes] + 3, {})

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        return {"sum": output.logits.square().mean()}
