"""Frigate's ONNX and OpenVINO detectors with ``model_type: yolonas``.

Frigate cuts square regions out of a frame, resizes them without antialiasing (``cv2.resize``), and reads the first
output as rows of 7, best first, until a class below 0, at most 20 of them. It has no suppression of its own.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.backbones.features import FeatureSpec
from detheads.deploy.hosts.frigate import CONFIGURATION, LABELS, configuration, labelmap
from detheads.export.profiles.frames import Framed, square_region
from detheads.export.profiles.profile import Arrays, Built, Profile, Request, Rows
from detheads.export.profiles.surgery import for_one_image, with_outputs
from detheads.foundation.geometry import sides
from detheads.foundation.manifest import Thresholds

TABLE = "detections"
"""Output ``[rows, 7]``: batch (0), x1, y1, x2, y2 in input pixels, confidence, class; unused rows have class -1."""

ROWS = """
    score = Unsqueeze(scores, last)
    batch = Mul(score, zero)
    used = Greater(score, zero)
    label = Unsqueeze(labels, last)
    number = Cast<to=1>(label)
    class = Where(used, number, none)
    rows = Concat<axis=2>(batch, boxes, score, class)
    detections = Squeeze(rows, first)
"""


class Frigate(Profile):
    name = "frigate"
    host = "Frigate (ONNX and OpenVINO detectors)"
    preprocessing = "a square region of the frame, black outside the frame, bilinear without antialiasing"
    frame = "square_region"
    most_images = 1

    def refuse(self, spec: FeatureSpec) -> str | None:
        if spec.width != spec.height:
            return (
                f"Frigate cuts square regions and would distort them to {sides(spec.height, spec.width)}; "
                "train with a square --size"
            )
        return None

    def build(self, request: Request) -> Built:
        """``model.onnx``, ``labelmap.txt`` and ``frigate.yml``."""
        constants: dict[str, NDArray[np.generic]] = {
            "last": np.array([2], np.int64),
            "first": np.array([0], np.int64),
            "zero": np.array(0, np.float32),
            "none": np.array(-1, np.float32),
        }
        shape = [request.thresholds.max_detections, 7]
        graph = with_outputs(for_one_image(request.final), "frigate", ROWS, {TABLE: shape}, constants)
        texts = {
            LABELS: labelmap(request.classes),
            CONFIGURATION: configuration(request.spec.width, request.spec.height),
        }
        return Built(graph, "model.onnx", texts, {})

    def host_input(self, image: Image.Image, width: int, height: int) -> Framed:
        return square_region(image, width, height)

    def read(self, outputs: Arrays, thresholds: Thresholds, spec: FeatureSpec) -> list[Rows]:
        """All rows; Frigate itself takes the first 20."""
        table = outputs[TABLE].astype(np.float32)
        used = table[: int((table[:, 6] < 0).argmax())] if (table[:, 6] < 0).any() else table
        return [Rows(used[:, 1:5], used[:, 5], used[:, 6].astype(np.int64))]


PROFILE = Frigate()
