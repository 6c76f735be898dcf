"""Hosts that bring their own suppression: every box, and its score for each class."""

import torch

from detheads.backbones.features import FeatureSpec
from detheads.deploy.hosts.labels import label_file
from detheads.export.names import DENSE_NAMES
from detheads.export.profiles.profile import Arrays, Built, Profile, Request, Rows
from detheads.export.profiles.surgery import with_outputs
from detheads.foundation.manifest import Thresholds
from detheads.ops.nms import hard_nms

OUTPUTS = ("boxes", "scores")
"""``[B, N, 4]`` xyxy, input pixels, not clipped to the input, and ``[B, N, K]`` in 0..1."""


ROWS = """
    boxes = Identity(dense_boxes)
    scores = Identity(dense_scores)
"""


class Raw(Profile):
    name = "raw"
    host = "hosts with their own suppression"

    def build(self, request: Request) -> Built:
        """``model.onnx`` and ``labels.txt``."""
        sizes = {entry.name: entry.type.tensor_type.shape.dim[1].dim_value for entry in request.dense.graph.output}
        count = sizes[DENSE_NAMES[0]]
        shapes = {"boxes": ["batch", count, 4], "scores": ["batch", count, len(request.classes)]}
        graph = with_outputs(request.dense, "raw", ROWS, shapes)
        return Built(graph, "model.onnx", {"labels.txt": label_file(request.classes)}, {"detheads.suppression": "none"})

    def read(self, outputs: Arrays, thresholds: Thresholds, spec: FeatureSpec) -> list[Rows]:
        """As a host does it: torchvision's suppression with the bundle's constants, boxes cut at the edges."""
        found = []
        for boxes, scores in zip(*(torch.from_numpy(outputs[name]) for name in OUTPUTS), strict=True):
            kept = hard_nms(boxes, scores, thresholds, size=(spec.height, spec.width))
            found.append(Rows(*(tensor.numpy() for tensor in kept)))
        return found


PROFILE = Raw()
