"""The PyTorch side of the proof: live backbone and head, torchvision's suppression, one image at a time.

Nothing here comes from the exported graph or from the runtime, except the letterbox that both are defined by.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detheads.backbones.backbone import Backbone
from detheads.backbones.features import FeatureSpec
from detheads.export.profiles.frames import Frame, WayBack
from detheads.foundation.geometry import has_area, letterbox_image
from detheads.foundation.manifest import Thresholds
from detheads.headkit.contract import Head
from detheads.ops.nms import hard_nms
from detheads.ops.scores import detection_scores


@dataclass(frozen=True)
class LiveDetections:
    """What PyTorch finds in one image.

    Attributes:
        boxes: ``[n, 4]`` xyxy, original pixels.
        scores: ``[n]``, descending.
        labels: ``[n]`` class indices.
        full: there were as many as there may be, so that there may have been more.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    full: bool = False


class LiveDetector:
    """The trained model as it is, on one torch device.

    Args:
        frame: brings a picture to the input's size: our letterbox, or what a host does instead.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        spec: FeatureSpec,
        thresholds: Thresholds,
        device: torch.device,
        frame: Frame = letterbox_image,
    ) -> None:
        self.backbone, self.head = backbone.to(device).eval(), head.to(device).eval()
        self.spec, self.thresholds, self.device, self.frame = spec, thresholds, device, frame

    def detect(self, image: Image.Image) -> LiveDetections:
        """Detect objects in an RGB image of any size; boxes without area in it are left out, as by the runtime."""
        dense_boxes, dense_scores, way_back = self._predict(image)
        size = self.spec.height, self.spec.width
        boxes, scores, labels = hard_nms(dense_boxes, dense_scores, self.thresholds, size=size)
        original = way_back.to_original(boxes.numpy())
        kept = has_area(original)
        full = len(scores) == self.thresholds.max_detections
        return LiveDetections(original[kept], scores.numpy()[kept], labels.numpy()[kept], full)

    def dense(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Before suppression: boxes ``[1, N, 4]`` (xyxy, input pixels), scores ``[1, N, K]``, of an image."""
        boxes, scores, _ = self._predict(image)
        return boxes[None], scores[None]

    @torch.inference_mode()
    def _predict(self, image: Image.Image) -> tuple[Tensor, Tensor, WayBack]:
        array, way_back = self.frame(image, self.spec.width, self.spec.height)
        images = torch.from_numpy(array).permute(2, 0, 1)[None].to(self.device)  # [1, 3, H, W]
        output = self.head(self.backbone(self.backbone.normalise(images)))
        scores = detection_scores(output.logits, output.quality)
        return output.boxes[0].cpu(), scores[0].cpu(), way_back
