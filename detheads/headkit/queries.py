"""What heads with one prediction an object share: the set loss, and boxes that need no suppression."""

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.contract import Head, HeadOutput
from detheads.headkit.dense import gather_matches
from detheads.headkit.prior import PRIOR_BIAS
from detheads.ops.losses import giou_loss, sigmoid_focal_loss
from detheads.targets.hungarian import CLASS_WEIGHT, GIOU_WEIGHT, L1_WEIGHT, match_one_to_one
from detheads.targets.objects import Targets

Prediction = tuple[Tensor, Tensor]
"""Boxes ``[B, N, 4]`` (xyxy, input pixels) and logits ``[B, N, K]``."""


class QueryHead(Head, ABC):
    """A head trained by one-to-one matching (Carion et al. 2020).

    A sub-class may put the predictions of its intermediate layers, a list of :data:`Prediction`, into
    ``extras["intermediate"]``; each is matched and trained as the last one is.
    """

    nms_free: ClassVar[bool] = True
    size: Tensor

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec
        size = torch.tensor([spec.width, spec.height] * 2, dtype=torch.float32)
        self.register_buffer("size", size, persistent=False)  # [4], input pixels

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Focal, L1 and GIoU loss, an object each; ``intermediate`` is their sum over the layers before the last."""
        losses = self.set_loss((output.boxes, output.logits), targets)
        earlier: list[Prediction] = output.extras.get("intermediate", [])
        if earlier:
            parts = [value for prediction in earlier for value in self.set_loss(prediction, targets).values()]
            losses["intermediate"] = torch.stack(parts).sum()
        return losses

    def set_loss(self, prediction: Prediction, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The loss of one set of predictions after matching it."""
        boxes, logits = prediction
        relative = boxes / self.size  # [B, N, 4]
        matches = gather_matches(
            [
                match_one_to_one(scores, places, target.boxes / self.size, target.labels)
                for scores, places, target in zip(logits.detach(), relative.detach(), targets, strict=True)
            ],
            targets,
        )
        objects = max(1, len(matches.points))
        class_targets = torch.zeros_like(logits)
        class_targets[matches.images, matches.points, matches.labels] = 1.0
        found = relative[matches.images, matches.points]  # [P, 4]
        wanted = matches.boxes / self.size
        return {
            "classification": CLASS_WEIGHT * sigmoid_focal_loss(logits, class_targets) / objects,
            "box": L1_WEIGHT * (found - wanted).abs().sum() / objects,
            "overlap": GIOU_WEIGHT * giou_loss(found, wanted).sum() / objects,
        }


def class_layer(width: int, num_classes: int) -> nn.Linear:
    """Class logits of ``[B, Q, width]``, rare at the start as the focal loss wants them."""
    layer = nn.Linear(width, num_classes)
    nn.init.constant_(layer.bias, PRIOR_BIAS)
    return layer


def box_layers(width: int, bias: float) -> nn.Sequential:
    """Four numbers of ``[B, Q, width]``, all near ``bias`` at the start."""
    last = nn.Linear(width, 4)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)
