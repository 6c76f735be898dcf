import copy
import os
import subprocess
import sys
from collections import Counter
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
from detheads.export.source import load_trained
from detheads.export.trace import OPSET, TRACE_BATCH, random_inputs, trace_dense
from detheads.foundation.bundle import onnx_file, read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import ONLY_HEAD
from detheads.headkit import registry
from detheads.ops.nms import hard_nms
from tests.export.toy import BACKBONE, SIDE, THRESHOLDS, Toy, ship


@pytest.fixture(scope="module")
def graph(toy: Toy) -> DetectorGraph:
    trained = load_trained(toy.run)
    return DetectorGraph(trained.backbone, trained.head, trained.checkpoint.feature_spec)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_onnx_equals_torch_on_other_inputs_and_batch_sizes(graph: DetectorGraph, bundle, batch: int) -> None:
    images = random_inputs(graph, batch, seed=40 + batch)
    with torch.no_grad():
        dense = graph.dense(images)
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["boxes", "scores", "labels"], {"images": images.numpy()})
    assert found[0].shape == (batch, THRESHOLDS.max_detections, 4)
    assert [array.dtype for array in found] == [np.float32, np.float32, np.int32]
    for image in range(batch):
        kept = hard_nms(dense[0][image], dense[1][image], THRESHOLDS, size=(SIDE, SIDE))
        count = len(kept[1])
        assert count > 0
        np.testing.assert_allclose(found[0][image, :count], kept[0].clamp(0, SIDE), atol=1e-3)
        np.testing.assert_allclose(found[1][image, :count], kept[1], atol=1e-5)
        np.testing.assert_array_equal(found[2][image, :count], kept[2])
        assert not found[1][image, count:].any()


def test_hierarchical_backbone_and_another_head(tmp_path: Path) -> None:
    backbone = load_backbone("timm:test_convnext", (96, 160), random_weights=True)
    torch.manual_seed(0)
    head = registry.build("split_tower", backbone.feature_spec, 4, {"hidden": 16}).eval()
    other = DetectorGraph(backbone, head, backbone.feature_spec)
    parity = ship(other, tmp_path / "a.onnx")
    assert parity.relative_boxes < 1e-4
    assert parity.best_boxes <= parity.dense_boxes < 1e-2
    assert parity.dense_scores < 1e-4
    assert parity.batch != TRACE_BATCH


def test_head_that_cannot_be_traced_is_one_sentence(graph: DetectorGraph) -> None:
    class Dynamic(type(graph.head())):  # type: ignore[misc]
        def forward(self, features):
            output = super().forward(features)
            if output.logits.max().item() > 0:  # a decision on values cannot be traced
                return replace(output, logits=output.logits + 1)
            return output

    head = copy.deepcopy(graph.head())
    head.__class__ = Dynamic
    with pytest.raises(UserError, match="Dynamic cannot be traced to ONNX") as raised:
        trace_dense(DetectorGraph(graph.backbone, head, graph.spec))
    assert "\n" not in str(raised.value)


def test_dense_tensors_are_read_inside_the_shipped_graph(graph: DetectorGraph, bundle) -> None:
    path = onnx_file(bundle, read_manifest(bundle))
    before = path.read_bytes()
    images = random_inputs(graph, 2, seed=9)
    found = InnerGraph(path).run(images.numpy())[ONLY_HEAD]
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


def test_nodes_are_named_after_the_modules_they_came_from(bundle: Path) -> None:
    names = [node.name for node in onnx.load(str(bundle / "model.onnx")).graph.node]
    assert len(set(names)) == len(names)
    assert "backbone.maps.model.blocks.0.attn/Softmax" in names
    assert "head.classes/Conv_4" in names  # one module on five levels
    assert {name.split("/")[0].split(".")[0] for name in names} == {"backbone", "graph", "head", "suppression"}


def test_backbone_of_another_size_is_refused(graph: DetectorGraph) -> None:
    other = load_backbone(BACKBONE, (SIDE + 32, SIDE + 32), random_weights=True)
    with pytest.raises(UserError, match="trained at 160x160"):
        DetectorGraph(other, graph.head(), graph.spec)


def test_backbone_with_other_features_is_refused(graph: DetectorGraph) -> None:
    other = load_backbone("timm:test_convnext", (SIDE, SIDE), random_weights=True)
    with pytest.raises(UserError, match="needs features 'last'"):
        DetectorGraph(other, graph.head(), graph.spec)


def test_the_same_run_gives_the_same_file_in_another_process(toy: Toy, bundle: Path, tmp_path: Path) -> None:
    """Whatever the seed of Python's hashes is, which orders sets of strings."""
    target = tmp_path / "again.detheads"
    limits = ["--max-detections", str(THRESHOLDS.max_detections), "--candidates", str(THRESHOLDS.candidates)]
    subprocess.run(
        [sys.executable, "-m", "detheads", "export", str(toy.run), "-o", str(target), "--no-verify", "--onnx-only",
         *limits],
        env=os.environ | {"PYTHONHASHSEED": "4711"},
        check=True,
        capture_output=True,
    )  # fmt: skip
    assert read_manifest(target).onnx.sha256 == read_manifest(bundle).onnx.sha256
    assert (target / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_group_norm_needs_no_shape_at_run_time(graph: DetectorGraph, bundle: Path) -> None:
    kinds = Counter(node.op_type for node in onnx.load(str(bundle / "model.onnx")).graph.node)
    norms = sum(isinstance(module, torch.nn.GroupNorm) for module in graph.modules())
    assert kinds["BatchNormalization"] == kinds["InstanceNormalization"] >= norms > 0
    assert kinds["Shape"] < norms
