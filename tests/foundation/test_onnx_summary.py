"""ONNX files read without the onnx library, held against that library."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from detheads.foundation.errors import UserError
from detheads.foundation.onnx_summary import summarise


def test_a_shipped_graph_is_told_as_the_onnx_library_reads_it(bundle: Path) -> None:
    model = onnx.load_model(bundle / "model.onnx")
    summary = summarise(bundle / "model.onnx")
    assert summary.opset == model.opset_import[0].version
    assert summary.nodes == Counter(node.op_type for node in model.graph.node)
    assert summary.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert [str(tensor) for tensor in summary.inputs] == ["images uint8 [batch, 3, 160, 160]"]
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in summary.outputs] == [
        ("boxes", "float32", ("batch", 20, 4)),
        ("scores", "float32", ("batch", 20)),
        ("labels", "int32", ("batch", 20)),
    ]
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    in_nodes = [
        onnx.numpy_helper.to_array(attribute.t)
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    expected: Counter[str] = Counter()
    for array in (*stored, *in_nodes):
        expected[str(array.dtype)] += array.nbytes
    assert summary.weights == expected


def test_inner_graphs_functions_and_other_domains_are_counted_apart(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    body = onnx.helper.make_graph([make("Add", ["x", "x"], ["y"]), make("Mul", ["y", "y"], ["z"])], "body", [], [])
    gelu = make("Gelu", ["z"], ["g"], domain="com.microsoft")
    outer = onnx.helper.make_graph(
        [make("If", ["c"], ["z"], then_branch=body, else_branch=body), gelu],
        "outer", [], [onnx.helper.make_tensor_value_info("g", onnx.TensorProto.FLOAT16, None)],
        [onnx.numpy_helper.from_array(np.zeros((3, 5), np.float16), "w")],
    )  # fmt: skip
    function = onnx.helper.make_function("own", "F", ["a"], ["b"], [make("Abs", ["a"], ["b"])], [])
    opsets = [onnx.helper.make_opsetid("com.microsoft", 1), onnx.helper.make_opsetid("", 19)]
    model = onnx.helper.make_model(outer, functions=[function], opset_imports=opsets)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    summary = summarise(tmp_path / "a.onnx")
    assert summary.opset == 19
    assert summary.nodes == {"If": 1, "com.microsoft.Gelu": 1}
    assert summary.inner_nodes == {"Add": 2, "Mul": 2, "Abs": 1}
    assert summary.weights == {"float16": 30}
    assert str(summary.outputs[0]) == "g float16 []"


@pytest.mark.parametrize(
    "content", [b"\x3a\xff\xff\xff\x7f", b"\x07", b"\xff" * 20, b"\x3a\x02\x2a\x7f", b"GIF89a", b""]
)
def test_what_is_no_onnx_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.onnx is (not an ONNX file|empty)"):
        summarise(tmp_path / "a.onnx")
