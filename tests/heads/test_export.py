"""Every head in ONNX Runtime equals itself in PyTorch, and compiles to an engine."""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from detheads.backbones.backbone import load_backbone
from detheads.export.graph import DetectorGraph
from detheads.export.onnx_export import OPSET, export_onnx
from detheads.export.tensorrt_engine import BatchProfile, build_engine
from detheads.foundation.bundle import Thresholds
from detheads.headkit import registry
from detheads.headkit.contract import Head
from tests.heads.worlds import SPECS, random_features, small_head, with_blocks

TRACED_BATCH = 2


class Positional(nn.Module):
    """A head whose layers are positional inputs and whose outputs are a tuple, as an ONNX file has them."""

    def __init__(self, head: Head, names: tuple[str, ...]) -> None:
        super().__init__()
        self.head, self.names = head, names

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        output = self.head(dict(zip(self.names, maps, strict=True)))
        return tuple(tensor for tensor in (output.boxes, output.logits, output.quality) if tensor is not None)


@pytest.mark.parametrize("name", ["cnn-tall", pytest.param("vit-patch14", marks=pytest.mark.slow)])
def test_onnx_equals_torch_on_other_inputs_and_batch_sizes(entry: registry.Entry, name: str, tmp_path: Path) -> None:
    name = "vit-wide" if entry.head.blocks and name.startswith("cnn") else name
    spec = with_blocks(entry, SPECS[name])
    module = Positional(small_head(entry, spec), spec.names).eval()
    traced = tuple(random_features(spec, TRACED_BATCH).values())
    free = tuple({0: torch.export.Dim("batch", min=1)} for _ in traced)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, traced, dynamo=True, opset_version=OPSET, dynamic_shapes=(free,), verbose=False
        )
    program.save(str(tmp_path / "head.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "head.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        maps = tuple(random_features(spec, batch, seed=70 + batch).values())
        with torch.no_grad():
            wanted = module(*maps)
        feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), maps, strict=True)}
        for found, tensor in zip(session.run(None, feeds), wanted, strict=True):
            assert found.shape == tuple(tensor.shape)
            np.testing.assert_allclose(found, tensor.numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm:test_vit", "timm:test_convnext"])
def test_an_engine_is_built_from_pixels_to_boxes(entry: registry.Entry, backbone: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")
    if entry.head.blocks:
        if backbone != "timm:test_vit":
            pytest.skip(f"{entry.name} reads transformer blocks")
        backbone = "timm:vit_tiny_patch16_224"  # the smallest with the twelve blocks that heads count on
    encoder = load_backbone(backbone, (64, 96), random_weights=True, blocks=entry.head.blocks)
    head = small_head(entry, encoder.feature_spec)
    graph = DetectorGraph(encoder, head, encoder.feature_spec, Thresholds(max_detections=10, candidates=50))
    exported = export_onnx(graph, tmp_path / "model.onnx", {})
    assert exported.parity.batch != TRACED_BATCH
    assert exported.parity.dense_boxes < 1e-2
    built = build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", batch=BatchProfile(1, 2, 5))
    assert built.path.stat().st_size > 100_000
    assert built.batch == BatchProfile(1, 2, 5)
