"""A bundle whose graph is one convolution, so that an engine of it is built in a moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto, helper

from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.manifest import BundleManifest
from tests.deploy.engines.graphs import SIDE, convolution, saved

Small = Callable[..., Path]

MANIFEST = {
    "schema_version": 2,
    "name": "small",
    "classes": [{"id": 1, "name": "thing"}],
    "input": {"height": SIDE, "width": SIDE},
    "thresholds": {},
    "backbone": {"name": "b", "timm_name": "b", "licence": "none", "weights_sha256": None},
    "head": {"name": "h", "config": {}, "parameters": 1},
    "precision": "fp32",
    "hashes": {},
    "tools": {},
    "engines": [],
}
PARITY: dict[str, float] = {"batch": 1, "dense_boxes": 0, "relative_boxes": 0, "best_boxes": 0, "dense_scores": 0}
ONNX = {"file": "model.onnx", "sha256": "", "opset": 20, "bytes": 1, "parity": PARITY}


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Makes such a bundle."""

    def make(graph: ModelProto | None = None, **update: Any) -> Path:
        folder = tmp_path / "small.detheads"
        folder.mkdir()
        model = graph or convolution()
        helper.set_model_props(model, BundleManifest.model_validate(MANIFEST | {"onnx": ONNX}).graph_metadata())
        path = saved(model, folder / "model.onnx")
        onnx = ONNX | {"sha256": atomic.sha256_of(path), "bytes": path.stat().st_size}
        write_manifest(folder, BundleManifest.model_validate(MANIFEST | {"onnx": onnx} | update))
        return folder

    return make


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_engine(folder: Path, **update: Any) -> BundleManifest:
    """Changes what the manifest says of its one engine."""
    manifest = read_manifest(folder)
    manifest = manifest.model_copy(update={"engines": [manifest.engines[0].model_copy(update=update)]})
    write_manifest(folder, manifest)
    return manifest
