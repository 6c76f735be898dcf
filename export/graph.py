"""Backbone, head and post-processing as one module: raw pixels in, final boxes out."""

import torch
from torch import Tensor, nn

from detheads.backbones.backbone import Backbone
from detheads.backbones.features import FeatureSpec
from detheads.foundation.bundle import Thresholds
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.headkit.contract import Head
from detheads.ops.decisions import recording
from detheads.ops.scores import detection_scores
from detheads.ops.suppression import select_detections

INPUT_NAME = "images"
OUTPUT_NAMES = ("boxes", "scores", "labels")
DENSE_NAMES = ("dense_boxes", "dense_scores")
"""The tensors before suppression. They keep these names inside the graph, so that a proof can read them there."""


def decision_names(number: int) -> tuple[str, str]:
    """Names inside the graph of what the head's decision of that number chose between, and of its choice."""
    return f"decision{number}_values", f"decision{number}_choice"


class DetectorGraph(nn.Module):
    """The graph that is shipped.

    Args:
        backbone: frozen encoder for one input size.
        head: trained head for the features of that encoder.
        spec: the features the head was trained on.
        thresholds: constants of the post-processing.

    Raises:
        UserError: when the backbone does not give the features that the head needs.
    """

    limits: Tensor

    def __init__(self, backbone: Backbone, head: Head, spec: FeatureSpec, thresholds: Thresholds) -> None:
        super().__init__()
        _require_same_features(backbone, spec)
        self.backbone, self.head, self.spec, self.thresholds = backbone, head, spec, thresholds
        self.register_buffer("limits", torch.tensor([spec.width, spec.height] * 2, dtype=torch.float32), False)
        self.eval()

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB ``[B, 3, H, W]`` -> boxes ``[B, N, 4]`` (xyxy, input pixels) and scores ``[B, N, K]``."""
        output = self.head(self.backbone(self.backbone.normalise(images)))
        return output.boxes, detection_scores(output.logits, output.quality)

    def select(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The dense predictions' final detections, boxes clipped to the input; one without area inside it is none.

        Suppression sees the boxes before clipping, as evaluation's own does.
        """
        low, high = self.clipped(boxes).chunk(2, dim=2)
        seen = (high > low).all(dim=2, keepdim=True)  # [B, N, 1]
        boxes, scores, labels = select_detections(boxes, torch.where(seen, scores, 0.0), self.thresholds)
        return self.clipped(boxes), scores, labels

    def clipped(self, boxes: Tensor) -> Tensor:
        """Boxes ``[..., 4]`` cut at the edges of the input."""
        return torch.minimum(boxes.clamp(min=0.0), self.limits)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 RGB ``[B, 3, H, W]``, letterboxed -> the detections of each image, best first.

        Returns:
            boxes float32 ``[B, R, 4]`` (xyxy, input pixels, inside the input), scores float32 ``[B, R]``, labels
            int32 ``[B, R]``, where R is ``thresholds.max_detections``; unused rows have score 0.
        """
        return self.select(*self.dense(images))


class GraphWithDense(nn.Module):
    """The graph with the tensors before suppression and the head's decisions as further outputs, only for tracing."""

    def __init__(self, graph: DetectorGraph) -> None:
        super().__init__()
        self.detector = graph  # not "graph": torch.fx modules have an attribute of that name, and tracing fails

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with recording() as journal:
            dense = self.detector.dense(images)
        decided = [tensor for decision in journal.decisions for tensor in (decision.values, decision.choice)]
        return *self.detector.select(*dense), *dense, *decided


def _require_same_features(backbone: Backbone, wanted: FeatureSpec) -> None:
    found = backbone.feature_spec
    if (found.height, found.width) != (wanted.height, wanted.width):
        raise UserError(
            f"the head was trained at {sides(wanted.height, wanted.width)} pixels, "
            f"the backbone is built for {sides(found.height, found.width)}."
        )
    for layer in wanted.layers:
        if layer not in found.layers:
            raise UserError(
                f"the head needs features {layer.name!r} with {layer.channels} channels at stride {layer.stride}, "
                f"which {backbone.spec.name} does not give; export with the backbone it was trained on."
            )
