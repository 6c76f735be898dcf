"""What every head promises, tested on every registered one."""

import pytest
import torch

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.headkit import registry
from detheads.headkit.checks import CHECKS, Case
from detheads.headkit.contract import Head
from detheads.heads.patch_assembly import PatchAssembly
from tests.heads.worlds import (
    CLASSES,
    random_features,
    small_config,
    small_head,
    with_blocks,
)


def test_a_narrow_head_runs_on_one_small_image(entry: registry.Entry) -> None:
    """Its coarsest map is a single cell there, which normalisation has to survive."""
    spec = with_blocks(entry, FeatureSpec((FeatureLayer("last", 32, 16),), ("last",), 64, 64))
    output = small_head(entry, spec)(random_features(spec, 1))
    assert torch.isfinite(output.boxes).all()


@pytest.mark.parametrize("changed", ["class_tower", "box_tower"])
def test_the_class_tower_decides_the_classes_and_the_box_tower_the_boxes(
    head: Head, spec: FeatureSpec, changed: str
) -> None:
    if not hasattr(head, changed):
        pytest.skip("has no two towers")
    features = random_features(spec, 1)
    with torch.no_grad():
        before = head(features)
        for parameter in getattr(head, changed).parameters():
            parameter.add_(torch.randn_like(parameter))
        after = head(features)
    for_boxes = changed == "box_tower"
    assert torch.equal(after.boxes, before.boxes) is not for_boxes
    assert torch.equal(after.quality, before.quality) is not for_boxes
    if not isinstance(head, PatchAssembly):  # there classes spread along the bonds that the box tower sees
        assert torch.equal(after.logits, before.logits) is for_boxes


@pytest.mark.parametrize("promise", CHECKS)
def test_a_head_keeps_its_promises(promise: str, entry: registry.Entry, spec: FeatureSpec) -> None:
    """The checks that ``detheads heads check`` runs on a head of one's own."""
    CHECKS[promise](Case(entry, "these", spec, CLASSES, small_config(entry)))


def test_one_seed_gives_one_head(entry: registry.Entry, spec: FeatureSpec) -> None:
    first, second, other = (small_head(entry, spec, seed=seed).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
