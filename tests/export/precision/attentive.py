"""A dense graph of a tiny transformer detector, made by hand: patches, one attention, one wide layer, decoded boxes."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

SIDE, CELLS, WIDTH, CLASSES = 32, 16, 8, 3

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
attentive (uint8[batch, 3, 32, 32] images) => (float[batch, 16, 4] dense_boxes, float[batch, 16, 3] dense_scores) {
    floats = Cast<to=1>(images)
    pixels = Div(floats, full)
    patches = Conv<strides=[8, 8]>(pixels, w_patches)
    flat = Reshape(patches, flat_shape)
    tokens = Transpose<perm=[0, 2, 1]>(flat)
    normed = LayerNormalization(tokens, ones, zeros)
    query = MatMul(normed, w_query)
    key = MatMul(normed, w_key)
    value = MatMul(normed, w_value)
    keys = Transpose<perm=[0, 2, 1]>(key)
    products = MatMul(query, keys)
    logits = Mul(products, temperature)
    attention = Softmax<axis=-1>(logits)
    mixed = MatMul(attention, value)
    added = Add(tokens, mixed)
    wide = MatMul(added, w_wide)
    active = Relu(wide)
    narrow = MatMul(active, w_narrow)
    logs = MatMul(narrow, w_boxes)
    sides = Exp(logs)
    dense_boxes = Add(sides, corners)
    squares = Mul(narrow, narrow)
    sum = ReduceSum(squares, last)
    length = Sqrt(sum)
    inverse = Reciprocal(length)
    dots = MatMul(narrow, w_classes)
    cosines = Mul(dots, inverse)
    decision0_values = ReduceMax(cosines, last)
    decision0_choice = ArgMax<axis=1>(decision0_values)
    dense_scores = Sigmoid(cosines)
}
"""


def attentive_detector(scores: float = 1.0, layer: float = 1.0) -> onnx.ModelProto:
    """``images`` uint8 ``[B, 3, SIDE, SIDE]`` -> ``dense_boxes`` ``[B, CELLS, 4]`` and ``dense_scores``.

    Args:
        scores: factor of the product of queries and keys, which the temperature divides by again.
        layer: factor of the wide layer, which the layer behind it divides by again. Neither changes what FP32 gives.
    """
    random = np.random.default_rng(0)

    def weights(*shape: int, factor: float = 1.0) -> np.ndarray:
        return (factor * random.normal(0, np.prod(shape[:-1]) ** -0.5, shape)).astype(np.float32)

    constants = {
        "full": np.float32(255),
        "w_patches": weights(WIDTH, 3, 8, 8),
        "flat_shape": np.array([0, WIDTH, CELLS]),
        "ones": np.ones(WIDTH, np.float32),
        "zeros": np.zeros(WIDTH, np.float32),
        "w_query": weights(WIDTH, WIDTH, factor=scores**0.5),
        "w_key": weights(WIDTH, WIDTH, factor=scores**0.5),
        "w_value": weights(WIDTH, WIDTH),
        "temperature": np.float32(1 / scores),
        "w_wide": weights(WIDTH, 2 * WIDTH, factor=layer),
        "w_narrow": weights(2 * WIDTH, WIDTH, factor=1 / layer),
        "w_boxes": weights(WIDTH, 4),
        "corners": random.uniform(0, SIDE, (1, CELLS, 4)).astype(np.float32),
        "last": np.array([-1]),
        "w_classes": weights(WIDTH, CLASSES),
    }
    model = parser.parse_model(TEXT)
    model.producer_name = "detheads"
    for node in model.graph.node:
        node.name = f"model/{node.output[0]}"
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    values = onnx.helper.make_tensor_value_info("decision0_values", onnx.TensorProto.FLOAT, ["batch", CELLS, 1])
    choice = onnx.helper.make_tensor_value_info("decision0_choice", onnx.TensorProto.INT64, ["batch", 1, 1])
    model.graph.value_info.extend([values, choice])
    onnx.checker.check_model(model, full_check=True)
    return model
