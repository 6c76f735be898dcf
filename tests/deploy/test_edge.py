"""What edge runtimes would refuse of a graph: by their lists, or by asking the real libraries that are installed."""

import shutil
from pathlib import Path

import onnx
import pytest

from detheads.deploy.edge import Verdict, check
from detheads.foundation import atomic
from tests.foundation.test_bundle import change


@pytest.fixture
def strange(bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose graph has an operator that nobody has."""
    copy = Path(shutil.copytree(bundle, tmp_path / "strange.detheads"))
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [make("Identity", ["on"], ["go"]), make("Mul", ["state", "state"], ["next"])],
        "body",
        [value("i", 7, []), value("on", 9, []), value("state", 1, [2])],
        [value("go", 9, []), value("next", 1, [2])],
    )
    graph = onnx.helper.make_graph(
        [make("Relu", ["x"], ["y"]), make("Det", ["y"], ["d"]), make("Loop", ["", "", "d"], ["z"], body=body)],
        "g",
        [value("x", 1, ["batch", 3, 3])],
        [value("z", 1, ["batch"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    path = copy / "model.onnx"
    path.write_bytes(model.SerializeToString())
    change(copy, "onnx.sha256", atomic.sha256_of(path))
    change(copy, "onnx.bytes", path.stat().st_size)
    return copy


def by_name(verdicts: list[Verdict]) -> dict[str, Verdict]:
    return {verdict.runtime: verdict for verdict in verdicts}


def test_operators_outside_of_a_providers_list_are_counted(strange: Path) -> None:
    graph, verdicts = check(strange)
    found = by_name(verdicts)
    assert sum(graph.nodes.values()) == 3
    assert found["XNNPACK"].refused == {"Relu": 1, "Det": 1, "Loop": 1}
    assert found["CoreML"].refused == {"Det": 1, "Loop": 1}
    assert found["QNN"].told(3) == "would refuse 2 of 3 nodes: 1 Det, 1 Loop"
    assert "the 2 nodes inside loops stay with the CPU" in found["CoreML"].notes
    assert any("make_dynamic_shape_fixed --dim_param batch" in note for note in found["QNN"].notes)
    assert not any("make_dynamic_shape_fixed" in note for note in found["XNNPACK"].notes)


def test_installed_libraries_are_asked_themselves(strange: Path, bundle: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("tensorrt_rtx")
    asked = by_name(check(bundle)[1])
    assert asked["OpenVINO CPU"].told(1) == asked["tensorrt_rtx"].told(1) == "takes every operator"
    refused = by_name(check(strange)[1])
    assert refused["OpenVINO"].refused is None
    assert "Det-20" in refused["OpenVINO"].notes[0]
    assert refused["tensorrt_rtx"].refused == {"Det": 1}


def test_a_precision_that_a_provider_lacks_is_named(strange: Path) -> None:
    change(strange, "precision", "fp16")
    assert "it does not compute in fp16" in by_name(check(strange)[1])["XNNPACK"].notes


def test_libraries_that_are_absent_are_not_passed_over(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openvino", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    found = by_name(check(bundle)[1])
    assert found["OpenVINO"].told(9) == found["TensorRT"].told(9) == "not asked"
    assert "pip install 'detheads[openvino]'" in found["OpenVINO"].notes[0]
