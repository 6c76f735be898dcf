import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from detheads.backbones.backbone import load_backbone
from detheads.export.graph import DetectorGraph
from detheads.export.inner import InnerGraph
from detheads.export.onnx_export import OPSET, TRACE_BATCH, export_onnx, random_inputs
from detheads.export.source import load_trained
from detheads.foundation.bundle import onnx_file, read_manifest
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.ops.nms import hard_nms
from tests.export.toy import BACKBONE, SIDE, THRESHOLDS, Toy


@pytest.fixture(scope="module")
def graph(toy: Toy) -> DetectorGraph:
    trained = load_trained(toy.run)
    return DetectorGraph(trained.backbone, trained.head, trained.checkpoint.feature_spec, THRESHOLDS)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_onnx_equals_torch_on_other_inputs_and_batch_sizes(graph: DetectorGraph, bundle, batch: int) -> None:
    images = random_inputs(graph, batch, seed=40 + batch)
    with torch.no_grad():
        boxes, scores, labels = (tensor.numpy() for tensor in graph(images))
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["boxes", "scores", "labels"], {"images": images.numpy()})
    assert boxes.shape == (batch, THRESHOLDS.max_detections, 4)
    assert [array.dtype for array in found] == [np.float32, np.float32, np.int32]
    assert (scores > 0).any()
    np.testing.assert_allclose(found[0], boxes, atol=1e-3)
    np.testing.assert_allclose(found[1], scores, atol=1e-5)
    np.testing.assert_array_equal(found[2], labels)


def test_hierarchical_backbone_and_another_head(tmp_path: Path) -> None:
    backbone = load_backbone("timm:test_convnext", (96, 160), random_weights=True)
    torch.manual_seed(0)
    head = registry.build("split_tower", backbone.feature_spec, 4, {"hidden": 16}).eval()
    other = DetectorGraph(backbone, head, backbone.feature_spec, THRESHOLDS.model_copy(update={"max_detections": 3}))
    exported = export_onnx(other, tmp_path / "a.onnx", {})
    assert exported.parity.relative_boxes < 1e-4
    assert exported.parity.best_boxes <= exported.parity.dense_boxes < 1e-2
    assert exported.parity.dense_scores < 1e-4
    assert exported.parity.batch != TRACE_BATCH


def test_head_that_cannot_be_traced_is_one_sentence(graph: DetectorGraph, tmp_path: Path) -> None:
    class Dynamic(type(graph.head)):  # type: ignore[misc]
        def forward(self, features):
            output = super().forward(features)
            if output.logits.max().item() > 0:  # a decision on values cannot be traced
                return replace(output, logits=output.logits + 1)
            return output

    head = copy.deepcopy(graph.head)
    head.__class__ = Dynamic
    with pytest.raises(UserError, match="Dynamic cannot be traced to ONNX") as raised:
        export_onnx(DetectorGraph(graph.backbone, head, graph.spec, THRESHOLDS), tmp_path / "a.onnx", {})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "a.onnx").exists()


def test_boxes_lie_inside_the_input_and_unused_rows_are_zero(graph: DetectorGraph) -> None:
    with torch.no_grad():
        boxes, scores, labels = graph(random_inputs(graph, 2, seed=3))
    assert boxes.min() >= 0
    assert boxes.max() <= SIDE
    unused = scores == 0
    assert not boxes[unused].any()
    assert not labels[unused].any()


def test_boxes_without_area_inside_the_input_take_no_place_of_others(graph: DetectorGraph) -> None:
    """As if the head had never given them: the same bits as torchvision's selection of the others."""
    random = torch.Generator().manual_seed(5)
    corners = torch.rand(1, 300, 2, generator=random) * 220 - 40  # some begin beyond the input
    boxes = torch.cat((corners, corners + torch.rand(1, 300, 2, generator=random) * 60), dim=2)
    boxes[0, ::7, 2] = boxes[0, ::7, 0]  # no width
    scores = torch.rand(1, 300, 3, generator=random)
    flat = boxes.clamp(0, SIDE)
    seen = (flat[0, :, 2:] > flat[0, :, :2]).all(dim=1)
    assert 50 < int((~seen).sum()) < 250
    found = graph.select(boxes, scores)
    expected = hard_nms(boxes[0, seen], scores[0, seen], THRESHOLDS)
    assert len(expected[1]) == THRESHOLDS.max_detections
    assert torch.equal(found[0][0], expected[0].clamp(0, SIDE))
    assert torch.equal(found[1][0], expected[1])
    assert torch.equal(found[2][0].long(), expected[2])


def test_dense_tensors_are_read_inside_the_shipped_graph(graph: DetectorGraph, bundle) -> None:
    path = onnx_file(bundle, read_manifest(bundle))
    before = path.read_bytes()
    images = random_inputs(graph, 2, seed=9)
    found = InnerGraph(path).run(images.numpy())
    with torch.no_grad():
        boxes, scores = graph.dense(images)
    np.testing.assert_allclose(found.boxes, boxes.numpy(), atol=1e-3)
    np.testing.assert_allclose(found.scores, scores.numpy(), atol=1e-3)
    assert path.read_bytes() == before


def test_file_is_self_contained_and_says_what_it_is(bundle) -> None:
    model = onnx.load(str(bundle / "model.onnx"))
    manifest = read_manifest(bundle)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [OPSET]
    assert not [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param == "batch"
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert manifest.graph_metadata().items() <= props.items()
    assert props["detheads.licence"] == manifest.backbone.licence
    assert "größte Eule" in props["detheads.classes"]


def test_file_holds_no_path_of_the_machine_that_made_it(bundle) -> None:
    path = bundle / "model.onnx"
    assert b"site-packages" not in path.read_bytes()
    graph = onnx.load(str(path)).graph
    assert not any(item.metadata_props or item.doc_string for item in (graph, *graph.node, *graph.value_info))


def test_backbone_of_another_size_is_refused(graph: DetectorGraph) -> None:
    other = load_backbone(BACKBONE, (SIDE + 32, SIDE + 32), random_weights=True)
    with pytest.raises(UserError, match="trained at 160x160"):
        DetectorGraph(other, graph.head, graph.spec, THRESHOLDS)


def test_backbone_with_other_features_is_refused(graph: DetectorGraph) -> None:
    other = load_backbone("timm:test_convnext", (SIDE, SIDE), random_weights=True)
    with pytest.raises(UserError, match="needs features 'last'"):
        DetectorGraph(other, graph.head, graph.spec, THRESHOLDS)
