"""Small changes to graphs, on graphs small enough to know by heart."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from detheads.export.profiles.surgery import for_one_image, with_float_input, with_outputs, without_beginning
from detheads.foundation.errors import UserError

HEADER = '<ir_version: 9, opset_import: ["" : 20]>'


def model(text: str) -> onnx.ModelProto:
    found = parser.parse_model(f"{HEADER} {text}")
    onnx.checker.check_model(found, full_check=True)
    return found


def run(graph: onnx.ModelProto, **given: np.ndarray) -> dict[str, np.ndarray]:
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


CAST_FIRST = model(
    """
    g (uint8[batch, 3] images) => (float[batch, 3] out)
    <float[batch, 3] features = {}> { float = Cast<to=1>(images) features = Add(float, float) out = Neg(features) }
""".replace(" = {}", "")
)
MAX_FIRST = model("g (uint8[batch, 3] images) => (uint8[batch, 3] out) { out = Max(images, images) }")
HALF = model("""
    g (uint8[batch, 3] images) => (float[batch, 3] out) {
        features = Cast<to=10>(images) twice = Add(features, features) out = Cast<to=1>(twice)
    }
""")
BRANCHES = """
    g (uint8[batch, 3] images) => (float[batch, 3] out) {
        features = Cast<to=1>(images)
        hidden = Neg(SOURCE)
        total = ReduceSum<keepdims=0>(features)
        which = Cast<to=9>(total)
        out = If(which) <
            then_branch = a () => (float[batch, 3] x) { x = Identity(hidden) },
            else_branch = b () => (float[batch, 3] y) { y = Identity(features) }
        >
    }
"""
FEATURES = {"features": "stride8"}
SHAPES = {"stride8": ["batch", 3]}


def test_a_float_input_takes_what_lies_between_whole_numbers_where_the_graph_converts_it_itself() -> None:
    values = np.array([[0.25, 200.5, 255]], np.float32)
    np.testing.assert_array_equal(run(with_float_input(CAST_FIRST, "images"), images=values)["out"], -2 * values)
    np.testing.assert_array_equal(run(with_float_input(MAX_FIRST, "images"), images=values)["out"], [[0, 200, 255]])
    asked = model("g (uint8[batch, 3] images) => (int64[2] out) { out = Shape(images) }")
    assert len(with_float_input(asked, "images").graph.node) == 1  # TensorRT has no uint8 inside


def test_one_image_is_in_the_shapes_of_both_ends() -> None:
    graph = for_one_image(CAST_FIRST).graph
    shapes = [[size.dim_value for size in entry.type.tensor_type.shape.dim] for entry in (*graph.input, *graph.output)]
    assert shapes == [[1, 3], [1, 3]]


def test_further_nodes_read_the_outputs_by_their_names_and_take_no_names_of_others() -> None:
    text = "features = Mul(out, two) sum = Identity(features)"
    graph = with_outputs(CAST_FIRST, "host", text, {"sum": ["batch", 3]}, {"two": np.array(2, np.float32)})
    assert list(run(graph, images=np.array([[1, 2, 3]], np.uint8))["sum"][0]) == [-4, -8, -12]
    assert [node.name for node in graph.graph.node[-2:]] == ["host/features/Mul", "host/sum/Identity"]
    assert CAST_FIRST.graph.output[0].name == "out"  # the given one is as it was


@pytest.mark.parametrize(("whole", "factor"), [(CAST_FIRST, -1), (HALF, 2)])
def test_what_a_graph_computes_of_its_features_is_a_graph_of_floats(whole: onnx.ModelProto, factor: float) -> None:
    part = without_beginning(whole, FEATURES | {"unread": "stride16"}, SHAPES)
    values = np.array([[0.5, -2, 8], [1, 2, 3]], np.float32)
    np.testing.assert_array_equal(run(part, stride8=values)["out"], factor * values)
    assert [entry.name for entry in part.graph.input] == ["stride8"]


def test_a_head_that_reads_the_picture_too_cannot_stand_alone() -> None:
    both = BRANCHES.replace("hidden = Neg(SOURCE)", "other = Cast<to=1>(images) hidden = Neg(other)")
    with pytest.raises(UserError, match="reads 'images' besides the features stride8"):
        without_beginning(model(both), FEATURES, SHAPES)


def test_what_a_branch_reads_from_outside_is_kept() -> None:
    part = without_beginning(model(BRANCHES.replace("SOURCE", "features")), FEATURES, SHAPES)
    values = np.array([[0.5, 2, 8]], np.float32)
    np.testing.assert_array_equal(run(part, stride8=values)["out"], -values)


def test_a_head_that_asks_for_the_size_of_the_batch_asks_its_features() -> None:
    whole = model("""
        g (uint8[batch, 3] images) => (float[batch, 3] out) <int64[1] three = {3}> {
            size = Shape<start=0, end=1>(images)
            features = Cast<to=1>(images)
            shape = Concat<axis=0>(size, three)
            out = Reshape(features, shape)
        }
    """)
    values = np.array([[0.5, 2, 8], [1, 2, 3]], np.float32)
    np.testing.assert_array_equal(run(without_beginning(whole, FEATURES, SHAPES), stride8=values)["out"], values)
