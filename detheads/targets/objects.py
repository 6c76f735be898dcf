"""What a head has to find in an image."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """The objects of one image: ``boxes`` ``[M, 4]`` xyxy in input pixels, ``labels`` ``[M]`` int64. ``M`` may be 0."""

    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Targets":
        return Targets(self.boxes.to(device), self.labels.to(device))
