"""What every detection head takes and gives. Exporter, evaluator, trainer and tests rely on this and no more."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detheads.errors import UserError


@dataclass(frozen=True)
class FeatureLayer:
    """One feature map of a backbone: ``[B, channels, H / stride, W / stride]``."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class FeatureSpec:
    """What a head is built for: the input size and the layers it receives.

    ``main`` names the layers that together are *the* feature map (one for a ViT, several for a CNN);
    further layers serve heads that read intermediate blocks.
    """

    layers: tuple[FeatureLayer, ...]
    main: tuple[str, ...]
    height: int
    width: int

    def layer(self, name: str) -> FeatureLayer:
        """The layer of that name; ``KeyError`` when there is none."""
        return {layer.name: layer for layer in self.layers}[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)

    @property
    def main_layers(self) -> tuple[FeatureLayer, ...]:
        return tuple(self.layer(name) for name in self.main)


@dataclass(frozen=True)
class HeadOutput:
    """Dense predictions, ``N`` candidate boxes an image.

    Attributes:
        boxes: ``[B, N, 4]`` xyxy, input pixels.
        logits: ``[B, N, K]`` one sigmoid logit a class.
        quality: ``[B, N]`` logit of a localisation quality (centerness, IoU) or None. Where present the score of a
            detection is ``sqrt(sigmoid(logit) * sigmoid(quality))``, else ``sigmoid(logit)``.
        extras: what the head's own loss needs besides.
    """

    boxes: Tensor
    logits: Tensor
    quality: Tensor | None
    extras: Mapping[str, Any]


@dataclass(frozen=True)
class Targets:
    """The objects of one image: ``boxes`` ``[M, 4]`` xyxy in input pixels, ``labels`` ``[M]`` int64. ``M`` may be 0."""

    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Targets":
        return Targets(self.boxes.to(device), self.labels.to(device))


class Head(nn.Module, ABC):
    """Base class of all heads. Build one with ``heads.build(name, spec, num_classes, config)``."""

    nms_free: ClassVar[bool] = False
    """True when the head's boxes need no non-maximum suppression."""

    blocks: ClassVar[tuple[int, ...]] = ()
    """Intermediate transformer blocks (0-based) it reads besides the main layers, as layers ``block{i}``."""

    trainable: ClassVar[bool] = True
    """False for a head that is solved, not trained: it has no loss."""

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        """Map feature layers by name (``[B, C, H/s, W/s]`` each) to dense predictions."""

    @abstractmethod
    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Named scalar losses; the trainer minimises their sum. Finite for images without objects."""

    def set_class_embeddings(self, embeddings: Tensor) -> None:
        """Use text embeddings ``[K, D]`` of the class names. Heads that compare classes with text override this."""
        raise UserError(f"head {type(self).__name__} does not compare classes with text; leave the embeddings out.")
