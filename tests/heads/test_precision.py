"""Every head in FP16: what must stay FP32 is found in its graph, and what it detects stays the same."""

from pathlib import Path

import pytest
from torch import nn

from detheads.export.precision.policy import kept_by_policy
from detheads.export.precision.view import View
from detheads.headkit import registry
from detheads.headkit.cosine import CosineClassifier
from tests.heads.precision_table import World, make_world, row

pytestmark = pytest.mark.slow

KINDS = sorted(registry.trainable())
"""The closed form is not among them: random weights of its second stage multiply rounding beyond what FP32 may show."""

FP16_DROP, FP16_MATCHED = 0.0075, 0.94
"""What 24 pictures and random weights, whose scores lie close together, leave of the limits of a real proof: measured
at most 0.0058 (split_tower, to the better) and at least 0.9495 (compression)."""


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(request.param, tmp_path_factory.mktemp("head"))


def test_every_part_that_pytorch_has_is_found_in_the_graph(world: World) -> None:
    view = View(world.master.dense)
    kept = kept_by_policy(view)
    modules = dict(world.trained.head.named_modules()) | dict(world.trained.backbone.named_modules())
    parts = set(kept.values())
    assert {"pixels", "box decode", "scores"} <= parts
    normalising = [node for node in view.nodes.values() if "Normalization" in node.op_type]
    assert all(node.name in kept for node in normalising)
    if any(isinstance(module, (nn.GroupNorm, nn.LayerNorm)) for module in modules.values()):
        assert normalising
    if any(isinstance(module, CosineClassifier) for module in modules.values()):
        assert "norms, sums and powers" in parts
    live = [node for node in view.nodes.values() if not view.live.isdisjoint(node.output)]
    steep = [node for node in live if node.op_type in {"Softmax", "Exp", "Reciprocal", "Sqrt", "TopK", "ArgMax"}]
    assert all(node.name in kept for node in steep)
    if any(name.startswith("decision") for name in view.producer):
        assert "choices of the head" in parts


def test_fp16_detects_the_same(world: World, tmp_path: Path) -> None:
    assert row(world, "fp32")["verdict"] == "passes"
    low = row(world, "fp16")
    assert int(low["share"].rstrip(" %")) > 80, low
    assert abs(low["difference"]) < FP16_DROP and low["matched"] > FP16_MATCHED, low
