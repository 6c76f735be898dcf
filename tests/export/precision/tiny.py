"""A dense graph of a tiny detector, made by hand: a stem, three residual blocks, two predictions on a 16 x 16 grid."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE, CELLS, WIDTH, CLASSES = 64, 16, 8, 3
BLOCKS = ["backbone.stem", "backbone.blocks.0", "backbone.blocks.1", "backbone.blocks.2", "head.boxes", "head.classes"]


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coarse blocks, uint8 ``[count, 3, SIDE, SIDE]``."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return np.ascontiguousarray(small.repeat(SIDE // 8, axis=2).repeat(SIDE // 8, axis=3))


def tiny_detector(ruined: int | None = None, seed: int = 0) -> onnx.ModelProto:
    """``images`` uint8 ``[B, 3, SIDE, SIDE]`` -> ``dense_boxes`` ``[B, CELLS^2, 4]`` and ``dense_scores``.

    Args:
        ruined: a block whose inner channel 0 is 10,000 times as large, and read with weights as much smaller. In FP32
            that changes nothing; one INT8 scale for all channels leaves nothing of the other channels.
    """
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray] = {"size": np.float32(255.0)}

    def add(module: str, operator: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], f"{module}/{operator}", **attributes))
        return output

    def convolution(module: str, source: str, shape: tuple[int, ...], scale: float = 1.0, bias: float = 0.0) -> str:
        fan_in = np.prod(shape[1:])
        constants[f"{module}.weight"] = random.normal(0, scale * (2 / fan_in) ** 0.5, shape).astype(np.float32)
        constants[f"{module}.bias"] = np.full(shape[0], bias, np.float32)
        attributes = {"strides": [4, 4]} if shape[1] == 3 else {"pads": [shape[2] // 2] * 4}
        return add(module, "Conv", [source, f"{module}.weight", f"{module}.bias"], f"{module}.out", **attributes)

    x = add("", "Cast", ["images"], "floats", to=TensorProto.FLOAT)
    x = add("", "Div", [x, "size"], "normalised")
    x = convolution("backbone.stem", x, (WIDTH, 3, 4, 4))
    x = add("backbone.act", "Relu", [x], "stem.act")
    for number in range(3):
        block = f"backbone.blocks.{number}"
        y = convolution(f"{block}.wide", x, (2 * WIDTH, WIDTH, 3, 3))
        y = add(f"{block}.act", "Relu", [y], f"{block}.act")
        y = convolution(f"{block}.narrow", y, (WIDTH, 2 * WIDTH, 1, 1), 0.5)
        x = add(block, "Add", [x, y], f"{block}.sum")
        if number == ruined:
            constants[f"{block}.wide.weight"][0] *= 1e4
            constants[f"{block}.narrow.weight"][:, 0] *= 1e-4
    rows, columns = np.mgrid[0:CELLS, 0:CELLS] * 4.0 + 2.0
    constants["points"] = np.stack([columns, rows], axis=-1).reshape(1, -1, 2).astype(np.float32)
    boxes = convolution("head.boxes", x, (4, WIDTH, 1, 1), 0.3, bias=2.0)
    scores = convolution("head.classes", x, (CLASSES, WIDTH, 1, 1), 1.0, bias=-2.0)
    for name, tensor, channels in (("boxes", boxes, 4), ("classes", scores, CLASSES)):
        constants[f"{name}.shape"] = np.array([0, channels, CELLS * CELLS])
        flat = add(f"head.{name}.flat", "Reshape", [tensor, f"{name}.shape"], f"{name}.flat")
        add(f"head.{name}.rows", "Transpose", [flat], f"{name}.rows", perm=[0, 2, 1])
    sides = add("head", "Exp", ["boxes.rows"], "sides")
    constants["halves"] = np.array([2, 2])
    nodes.append(helper.make_node("Split", [sides, "halves"], ["before", "after"], "head/Split", axis=2))
    add("head", "Sub", ["points", "before"], "low")
    add("head.high", "Add", ["points", "after"], "high")
    add("head", "Concat", ["low", "high"], "dense_boxes", axis=2)
    add("", "Sigmoid", ["classes.rows"], "dense_scores")
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("dense_boxes", TensorProto.FLOAT, ["batch", CELLS * CELLS, 4]),
            helper.make_tensor_value_info("dense_scores", TensorProto.FLOAT, ["batch", CELLS * CELLS, CLASSES]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model.producer_name = "detheads"
    onnx.checker.check_model(model, full_check=True)
    return model
