"""What heads with one prediction an object share: the set loss, and boxes that need no suppression."""

from abc import ABC
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.contract import Head, HeadOutput
from detheads.headkit.prior import PRIOR_BIAS
from detheads.ops.across import mean_number
from detheads.ops.losses import giou_loss, sigmoid_focal_loss
from detheads.targets.hungarian import CLASS_WEIGHT, GIOU_WEIGHT, L1_WEIGHT, match_one_to_one
from detheads.targets.objects import TargetBatch, Targets

Prediction = tuple[Tensor, Tensor]
"""Boxes ``[B, N, 4]`` (xyxy, input pixels) and logits ``[B, N, K]``."""


class QueryHead(Head, ABC):
    """A head trained by one-to-one matching (Carion et al. 2020).

    A sub-class may put the predictions of its intermediate layers, a list of :data:`Prediction`, into
    ``extras["intermediate"]``; each is matched and trained as the last one is.
    """

    nms_free = True
    size: Tensor

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec
        size = torch.tensor([spec.width, spec.height] * 2, dtype=torch.float32)
        self.register_buffer("size", size, persistent=False)  # [4], input pixels

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Focal, L1 and GIoU loss, an object each; ``intermediate`` is their sum over the layers before the last."""
        batch = TargetBatch.of(targets)
        earlier: list[Prediction] = output.extras.get("intermediate", [])
        layers = [*earlier, (output.boxes, output.logits)]
        boxes = torch.stack([boxes for boxes, _ in layers]) / self.size  # [L, B, N, 4], shares of the input size
        logits = torch.stack([logits for _, logits in layers])  # [L, B, N, K]
        parts = self.set_losses(boxes, logits, replace(batch, boxes=batch.boxes / self.size))
        losses = {name: values[-1] for name, values in parts.items()}
        if earlier:
            losses["intermediate"] = torch.stack(list(parts.values()))[:, :-1].sum()
        return losses

    def set_losses(self, boxes: Tensor, logits: Tensor, targets: TargetBatch) -> dict[str, Tensor]:
        """The losses ``[L]`` of so many sets of predictions after matching them; boxes as shares of the input size."""
        predictions, objects = match_one_to_one(logits.detach(), boxes.detach(), targets)  # [L, P] each
        layer = torch.arange(len(boxes), device=boxes.device)[:, None]  # [L, 1]
        chosen = layer, targets.images[objects], predictions
        return self.losses_of(boxes, logits, chosen, targets.boxes[objects], targets.labels[objects])

    def losses_of(
        self, boxes: Tensor, logits: Tensor, chosen: tuple[Tensor, Tensor, Tensor], wanted: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The losses ``[L]`` when some predictions have an object each to find, and the others none.

        Args:
            boxes, logits: ``[L, B, N, 4]``, shares of the input size, and ``[L, B, N, K]``.
            chosen: ``[L, P]`` each (or broadcast to it): layer, image and prediction.
            wanted, labels: ``[L, P, 4]`` and ``[L, P]``, their objects.
        """
        class_targets = torch.zeros_like(logits)
        class_targets[(*chosen, labels)] = 1.0
        found = boxes[chosen]  # [L, P, 4]
        overlap = giou_loss(found.flatten(0, 1), wanted.flatten(0, 1)).view_as(labels)  # [L, P]
        classes = torch.stack([sigmoid_focal_loss(*pair) for pair in zip(logits, class_targets, strict=True)])  # [L]
        count = mean_number(labels.shape[1], like=boxes)
        return {
            "classification": CLASS_WEIGHT * classes / count,
            "box": L1_WEIGHT * (found - wanted).abs().sum(dim=(1, 2)) / count,
            "overlap": GIOU_WEIGHT * overlap.sum(dim=1) / count,
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
