"""NVIDIA DeepStream's ``nvinfer``: float input 0..255, one output that DeepStream-Yolo's parser reads.

``NvDsInferParseYoloE`` takes rows (x1, y1, x2, y2, score, label) and drops those under ``pre-cluster-threshold``, and
boxes of less than a pixel. nvinfer pads with black.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.backbones.features import FeatureSpec
from detheads.deploy.hosts.labels import label_file
from detheads.export.names import INPUT_NAME
from detheads.export.profiles.frames import Framed, black_letterbox
from detheads.export.profiles.profile import Arrays, Built, Profile, Request, Rows, planes
from detheads.export.profiles.surgery import with_float_input, with_outputs
from detheads.foundation.manifest import Thresholds

TABLE = "output"
"""Output ``[B, rows, 6]``: x1, y1, x2, y2 in input pixels, score, label; unused rows have score 0."""

ROWS = """
    score = Unsqueeze(scores, last)
    number = Cast<to=1>(labels)
    label = Unsqueeze(number, last)
    output = Concat<axis=2>(boxes, score, label)
"""

CONFIGURATION = """\
[property]
gpu-id=0
onnx-file=model.onnx
model-engine-file=model.onnx_b{batch}_gpu0_{mode_name}.engine
labelfile-path=labels.txt
batch-size={batch}
infer-dims=3;{height};{width}
network-mode={mode}
net-scale-factor=1
model-color-format=0
maintain-aspect-ratio=1
symmetric-padding=1
scaling-filter=1
network-type=0
process-mode=1
gie-unique-id=1
num-detected-classes={classes}
cluster-mode=4
parse-bbox-func-name=NvDsInferParseYoloE
custom-lib-path=nvdsinfer_custom_impl_Yolo/libnvdsinfer_custom_impl_Yolo.so

[class-attrs-all]
pre-cluster-threshold={score}
"""
"""``config_infer_primary.txt``. The filter must be named: nvinfer's own choice is the nearest pixel."""

MODES: Final = {
    "fp32": (0, "fp32"),
    "int8": (1, "int8"),
    "fp16": (2, "fp16"),
    "mixed": (2, "fp16"),
    "bf16": (0, "fp32"),
}
"""``network-mode``, and what nvinfer calls the engine of it. It has no bf16: there the graph alone says where."""


class DeepStream(Profile):
    name = "deepstream"
    host = "NVIDIA DeepStream (nvinfer)"
    preprocessing = "aspect kept, bilinear without antialiasing, centred, black"
    frame = "black_letterbox"

    def build(self, request: Request) -> Built:
        """``model.onnx``, ``config_infer_primary.txt`` and ``labels.txt``."""
        graph = with_outputs(
            with_float_input(request.final, INPUT_NAME),
            "deepstream",
            ROWS,
            {TABLE: ["batch", request.thresholds.max_detections, 6]},
            {"last": np.array([2], np.int64)},
        )
        mode, mode_name = MODES[request.precision]
        text = CONFIGURATION.format(
            mode=mode,
            mode_name=mode_name,
            batch=request.largest_batch,
            height=request.spec.height,
            width=request.spec.width,
            classes=len(request.classes),
            score=request.thresholds.score or 1e-6,  # unused rows have score 0
        )
        texts = {"config_infer_primary.txt": text, "labels.txt": label_file(request.classes)}
        return Built(graph, "model.onnx", texts, {})

    def host_input(self, image: Image.Image, width: int, height: int) -> Framed:
        return black_letterbox(image, width, height)

    def feed(self, images: NDArray[np.uint8]) -> Arrays:
        return {INPUT_NAME: planes(images).astype(np.float32)}

    def read(self, outputs: Arrays, thresholds: Thresholds, spec: FeatureSpec) -> list[Rows]:
        found = []
        for table in outputs[TABLE].astype(np.float32):
            used = table[table[:, 4] > 0]
            found.append(Rows(used[:, :4], used[:, 4], used[:, 5].astype(np.int64)))
        return found


PROFILE = DeepStream()
