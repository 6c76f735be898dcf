"""Scores below the graph's own floor, from the graph of the raw profile."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from detheads.deploy import Detector
from detheads.deploy.dense import DenseDetector
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.manifest import ProfileEntry
from tests.export.toy import THRESHOLDS, Toy, live_detector


@pytest.fixture(scope="module")
def dense_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with the graph before its suppression as the raw profile, as the export writes it."""
    copy = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("dense") / "toy.detheads"))
    manifest = read_manifest(copy)
    model = onnx.load(str(copy / manifest.onnx.file))
    nodes = [node for node in model.graph.node if not node.name.startswith("suppression")]
    for name in ("boxes", "scores"):
        nodes.append(helper.make_node("Identity", [f"dense_{name}"], [name]))
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None, None]) for name in ("boxes", "scores")
    )
    path = copy / "profiles" / "raw" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model, str(path))
    entry = ProfileEntry(
        name="raw",
        file="profiles/raw/model.onnx",
        sha256=atomic.sha256_of(path),
        bytes=path.stat().st_size,
        host="hosts with their own suppression",
        preprocessing="theirs",
    )
    write_manifest(copy, manifest.model_copy(update={"profiles": [entry]}))
    return copy


def test_at_the_graph_s_own_floor_both_graphs_find_the_same(dense_bundle: Path, toy: Toy) -> None:
    paths = sorted(toy.images.iterdir())
    graph = Detector(dense_bundle, threads=1)
    dense = DenseDetector(dense_bundle, floor=THRESHOLDS.score, threads=1)
    for one, other in zip(graph(paths, batch=3), dense(paths, batch=3), strict=True):
        assert len(one) > 0
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.full == other.full


@pytest.mark.parametrize("floor", [0.001, 0.7])
def test_at_another_floor_is_found_what_pytorch_finds_at_it(floor: float, dense_bundle: Path, toy: Toy) -> None:
    live = live_detector(toy.run, THRESHOLDS.model_copy(update={"score": floor}))
    dense = pickle.loads(pickle.dumps(DenseDetector(dense_bundle, floor=floor, threads=1)))
    for path in sorted(toy.images.iterdir()):
        found, wanted = dense(path), live.detect(load_image(path))
        np.testing.assert_array_equal(found.labels, wanted.labels)
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.02)


def test_the_command_line_takes_it_where_a_lower_score_is_asked_for(
    dense_bundle: Path, toy: Toy, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    command = ["deploy", "run", dense_bundle, toy.images / "bild 1.png", "--no-pictures", "--json"]
    plain = json.loads(detheads(*command, "-o", tmp_path / "plain").out)
    low = detheads(*command, "-o", tmp_path / "low", "--score", "cat=0.0001", "--score", "dog=0.72")
    assert low.code == 0, low.err
    assert "floor" not in low.err
    answer = json.loads(low.out)
    assert "raw" not in plain["runtime"]
    assert "profiles/raw/model.onnx, suppression in NumPy above 0.0001" in answer["runtime"]
    entries = atomic.read_json(tmp_path / "low" / "detections.json")
    assert {entry["category_id"] for entry in entries if entry["score"] < 0.72} == {3, 90}


def test_bundles_and_backends_without_such_a_graph_are_told(bundle: Path, dense_bundle: Path) -> None:
    with pytest.raises(UserError, match="has no graph without suppression; export it with --raw"):
        DenseDetector(bundle, floor=0.01)
    pytest.importorskip("openvino")
    with pytest.raises(UserError, match="run in ONNX Runtime and not in openvino"):
        DenseDetector(dense_bundle, floor=0.01, backend="openvino")
