from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from detheads.export.tensorrt_engine import BatchProfile, build_engine, default_capabilities, find_library
from detheads.foundation.errors import UserError

pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")


def graph_with(operator: str, path: Path, **attributes: object) -> Path:
    node = helper.make_node(operator, ["floats"], ["boxes"], name="the_suspect", **attributes)
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT), node],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 3, 8, 8])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def test_builds_without_a_gpu_and_counts_types(tmp_path: Path) -> None:
    library = find_library()
    built = build_engine(graph_with("Relu", tmp_path / "a.onnx"), tmp_path / "a.engine", batch=BatchProfile(1, 2, 5))
    assert built.path.stat().st_size == built.bytes > 0
    assert built.layer_types["FLOAT"] >= 2
    assert "HALF" not in built.layer_types
    assert built.builder == f"{library.name} {library.version}"
    assert built.batch == BatchProfile(1, 2, 5)
    assert built.seconds > 0


def test_default_architectures_start_at_ampere() -> None:
    library = find_library()
    if library.name == "tensorrt_rtx":
        names = default_capabilities(library)
        assert {"SM80", "SM86", "SM89", "SM120"} <= set(names)
        assert "SM75" not in names


def test_architecture_can_be_asked_for(tmp_path: Path) -> None:
    source = graph_with("Relu", tmp_path / "a.onnx")
    assert build_engine(source, tmp_path / "a.engine", capabilities=["SM75"]).compute_capabilities == ["SM75"]
    with pytest.raises(UserError, match="cannot compile for SM10"):
        build_engine(source, tmp_path / "b.engine", capabilities=["SM10"])
    assert not (tmp_path / "b.engine").exists()


def test_parser_error_is_verbatim_with_the_node(tmp_path: Path) -> None:
    source = graph_with("Gelu", tmp_path / "a.onnx")
    model = onnx.load(str(source))
    model.graph.node[1].op_type, model.graph.node[1].domain = "NoSuchOperator", "nowhere"
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    onnx.save(model, str(source))
    with pytest.raises(UserError, match=r"the_suspect.*NoSuchOperator"):
        build_engine(source, tmp_path / "a.engine")
    assert not (tmp_path / "a.engine").exists()


def test_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match=r"TensorRT cannot read bad\.onnx"):
        build_engine(tmp_path / "bad.onnx", tmp_path / "a.engine")


@pytest.mark.parametrize("text", ["", "8:4:1", "1:4", "0:1:2", "a:b:c", "1:4:99999"])
def test_unusable_batch_profiles(text: str) -> None:
    with pytest.raises(UserError, match=r"1:4:8"):
        BatchProfile.parse(text)


def test_batch_profile_text() -> None:
    assert BatchProfile.parse("1:4:8") == BatchProfile(1, 4, 8)
    assert BatchProfile.parse("2") == BatchProfile(2, 2, 2)
    assert str(BatchProfile(1, 4, 8)) == "1:4:8"
