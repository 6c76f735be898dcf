"""Small graphs as the export writes them: uint8 images in, nodes named after modules."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SIDE = 8


def model(
    nodes: Sequence[NodeProto], weights: dict[str, NDArray[np.generic]] | None = None, kind: int = TensorProto.FLOAT
) -> ModelProto:
    """``images`` uint8 ``[batch, 3, 8, 8]`` -> ``boxes``; the nodes read ``floats``, the images as that type."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["floats"], to=kind, name="backbone/Cast"), *nodes],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("boxes", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def convolution(kind: type = np.float32) -> ModelProto:
    """A convolution and an activation."""
    onnx_kind = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}[kind]
    weight = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(kind)
    return model(
        [
            helper.make_node("Conv", ["floats", "weight"], ["map"], pads=[1] * 4, name="backbone.stem/Conv"),
            helper.make_node("Relu", ["map"], ["boxes"], name="head/Relu"),
        ],
        {"weight": weight},
        onnx_kind,
    )


def quantised(zero: int = 0) -> ModelProto:
    """The convolution with both of its inputs quantised to INT8; any zero but 0 is for CPUs only."""
    weight = np.random.default_rng(0).integers(-127, 128, (16, 3, 3, 3), dtype=np.int8)
    zeros = {"scale": np.float32(0.5), "zero": np.int8(zero), "scales": np.full(16, 0.01, np.float32)}
    return model(
        [
            helper.make_node("QuantizeLinear", ["floats", "scale", "zero"], ["q"], name="backbone.stem/QuantizeLinear"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="backbone.stem/DequantizeLinear"),
            helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["w"], axis=0, name="backbone.stem/W"),
            helper.make_node("Conv", ["dq", "w"], ["map"], pads=[1] * 4, name="backbone.stem/Conv"),
            helper.make_node("Relu", ["map"], ["boxes"], name="head/Relu"),
        ],
        {"weight": weight, "zeros": np.zeros(16, np.int8), **{name: np.array(value) for name, value in zeros.items()}},
    )


def looped() -> ModelProto:
    """The convolution, and a loop that halves its result until it has run three times."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", "half"], ["next"], name="suppression/Mul"),
            helper.make_node("Identity", ["going"], ["still"], name="suppression/Identity"),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    result = convolution()
    del result.graph.node[-1]
    result.graph.node.append(
        helper.make_node("Loop", ["three", "true", "map"], ["boxes"], body=body, name="suppression/Loop")
    )
    weights = {"half": np.array(0.5, np.float32), "three": np.array(3, np.int64), "true": np.array(True)}
    result.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return result


def saved(graph: ModelProto, path: Path) -> Path:
    onnx.save(graph, str(path))
    return path


def detector() -> ModelProto:
    """Two detections of each image whose boxes, scores and labels follow from its mean grey."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT, name="backbone/Cast"),
            helper.make_node("ReduceMean", ["floats", "axes"], ["grey"], keepdims=0, name="head/ReduceMean"),
            helper.make_node("Unsqueeze", ["grey", "last"], ["column"], name="head/Unsqueeze"),
            helper.make_node("Mul", ["column", "shares"], ["scores"], name="head/Mul"),
            helper.make_node("Unsqueeze", ["scores", "end"], ["cells"], name="head/Unsqueeze_1"),
            helper.make_node("Mul", ["cells", "corners"], ["boxes"], name="head/Mul_1"),
            helper.make_node("Mul", ["column", "twice"], ["large"], name="head/Mul_2"),
            helper.make_node("Cast", ["large"], ["labels"], to=TensorProto.INT32, name="head/Cast"),
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 2, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("labels", TensorProto.INT32, ["batch", 2]),
        ],
        [
            numpy_helper.from_array(np.array(value), name)
            for name, value in {
                "axes": np.array([1, 2, 3]),
                "last": np.array([1]),
                "end": np.array([2]),
                "shares": np.array([[1 / 255, 1 / 510]], np.float32),
                "corners": np.array([[[0, 0, 8, 8]]], np.float32),
                "twice": np.array([[1, 2]], np.float32),
            }.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
