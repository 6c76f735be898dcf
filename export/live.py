"""The PyTorch side of the proof: live backbone and head, torchvision's suppression, one image at a time.

Nothing here comes from the exported graph or from the runtime, except the letterbox that both are defined by.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detheads.backbones.backbone import Backbone
from detheads.backbones.features import FeatureSpec
from detheads.foundation.bundle import Thresholds
from detheads.foundation.geometry import letterbox_image
from detheads.headkit.contract import Head
from detheads.ops.nms import hard_nms
from detheads.ops.scores import detection_scores


@dataclass(frozen=True)
class LiveResult:
    """What PyTorch finds in one image.

    Attributes:
        boxes: ``[n, 4]`` xyxy, original pixels.
        scores: ``[n]``, descending.
        labels: ``[n]`` class indices.
        dense_boxes: ``[N, 4]`` xyxy, input pixels, before suppression.
        dense_scores: ``[N, K]`` before suppression.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    dense_boxes: NDArray[np.float32]
    dense_scores: NDArray[np.float32]


class LiveDetector:
    """The trained model as it is, on one torch device."""

    def __init__(
        self, backbone: Backbone, head: Head, spec: FeatureSpec, thresholds: Thresholds, device: torch.device
    ) -> None:
        self.backbone, self.head = backbone.to(device).eval(), head.to(device).eval()
        self.spec, self.thresholds, self.device = spec, thresholds, device

    @torch.inference_mode()
    def detect(self, image: Image.Image) -> LiveResult:
        """Detect objects in an RGB image of any size."""
        array, letterbox = letterbox_image(image, self.spec.width, self.spec.height)
        images = torch.from_numpy(array).permute(2, 0, 1)[None].to(self.device)  # [1, 3, H, W]
        output = self.head(self.backbone(self.backbone.normalise(images)))
        dense_boxes, dense_scores = output.boxes[0].cpu(), detection_scores(output.logits, output.quality)[0].cpu()
        boxes, scores, labels = hard_nms(dense_boxes, dense_scores, self.thresholds)
        return LiveResult(
            letterbox.to_original(boxes.numpy()),
            scores.numpy(),
            labels.numpy(),
            dense_boxes.numpy(),
            dense_scores.numpy(),
        )
