"""The head without an idea, and heads whose idea is turned off: to the last bit the same."""

from typing import Any

import pytest
import torch
from torch import Tensor

from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.ops.cofiber import low_passes
from detheads.targets.objects import TargetBatch
from tests.heads.worlds import CLASSES, SPECS, no_objects, objects, random_features, with_blocks

NARROW = {"width": 16, "tower_blocks": 1}
EQUALS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("optimal_transport", "transport", "plain", {}),
    ("scale_classify", "scale", "plain", {}),
    ("mutual_attention", "slots", "plain", {}),
    ("feature_graph", "graph", "plain", {}),
    ("depth_fusion", "map", "plain", {}),
    ("curvature", "rays", "plain", {"levels": 5}),
    ("hook_fcos", "hooks", "fcos", {}),
    ("slim_fcos", "projected", "fcos", {}),
]
"""A head, its idea, and the head that it is without that idea, with its options."""


def _after_a_batch(name: str, options: dict[str, Any]) -> tuple[Head, dict[str, Tensor]]:
    """A head, and what it computes, loses and learns from one batch, with the labels that readers find for it."""
    spec = with_blocks(registry.entry("hook_fcos"), SPECS["vit-square"])
    torch.manual_seed(7)
    head = registry.build(name, spec, CLASSES, options).train()
    targets = TargetBatch.of([objects(spec), no_objects()])
    matcher = head.matcher()
    assert matcher is not None
    output = head(random_features(spec, 2))
    losses = head.loss(output, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert output.quality is not None
    found = {"boxes": output.boxes, "logits": output.logits, "quality": output.quality, **losses}
    gradients = {f"gradient {number}": value.grad for number, value in enumerate(head.parameters())}
    labels = {f"label {key}": values for key, values in matcher(targets).items()}
    return head, found | labels | {key: value for key, value in gradients.items() if value is not None}


@pytest.mark.parametrize(("name", "idea", "idle", "options"), EQUALS)
def test_a_head_whose_idea_is_off_is_the_head_without_one(
    name: str, idea: str, idle: str, options: dict[str, Any]
) -> None:
    """From one seed: parameters, output, losses, labels and gradients."""
    off = registry.entry(name).head.controls[idea].options
    head, found = _after_a_batch(name, {**off, **NARROW})
    other, wanted = _after_a_batch(idle, NARROW | options)
    assert found.keys() == wanted.keys()
    assert [key for key, value in wanted.items() if not torch.equal(found[key], value)] == []
    assert all(torch.equal(*pair) for pair in zip(head.parameters(), other.parameters(), strict=True))
    assert head.nms_free == other.nms_free


def test_slim_fcos_that_is_not_slim_has_the_options_of_fcos() -> None:
    """With which it is fcos, as it is with any."""
    slim, full = registry.entry("slim_fcos"), registry.entry("fcos")
    off = registry.config_dict(slim, slim.head.controls["slim"].options)
    assert off == registry.config_dict(full, {}) | {"projected": False}


@pytest.mark.parametrize("levels", [1, 4, 6])
def test_plain_has_averages_of_one_map_and_a_finer_one(levels: int) -> None:
    spec = SPECS["vit-wide"]
    torch.manual_seed(0)
    head = registry.build("plain", spec, CLASSES, NARROW | {"levels": levels}).eval()
    with torch.no_grad():
        output = head(random_features(spec, 1))
        fine, *rest = head.levels(random_features(spec, 1))
    cells = [(10, 26), (5, 13), (3, 7), (2, 4), (1, 2), (1, 1)][:levels]
    assert [tuple(level.shape[2:]) for level in (fine, *rest)] == cells
    assert output.boxes.shape[1] == sum(rows * columns for rows, columns in cells)
    for level, wanted in zip(rest, low_passes(rest[0], levels - 1) if rest else [], strict=True):
        assert torch.equal(level, wanted)
