"""What is particular to mutual attention: a patch hears of patches that no convolution would tell it of."""

import pytest
import torch
from torch import nn

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.headkit import registry
from detheads.heads.mutual_attention import MutualAttention
from tests.heads.worlds import random_features

SPEC = FeatureSpec((FeatureLayer("last", 24, 16),), ("last",), 32, 2048)  # 2 x 128 patches, a long strip
SMALL = {"width": 16, "slots": 4, "tower_blocks": 1}


def _without_statistics(module: nn.Module) -> None:
    """Take out the group norms: their means over the whole map connect all places too, if weakly."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, nn.Identity())
        else:
            _without_statistics(child)


@pytest.mark.parametrize(
    ("layers", "silent", "heard"), [(1, False, True), (2, False, True), (2, True, False), (0, False, False)]
)
def test_a_distant_patch_is_heard_through_the_read_back_alone(layers: int, silent: bool, heard: bool) -> None:
    torch.manual_seed(0)
    head = registry.build("mutual_attention", SPEC, 3, SMALL | {"layers": layers}).eval()
    assert isinstance(head, MutualAttention)
    _without_statistics(head)
    if silent:
        for mutual in head.rounds:
            for parameter in mutual.read_back.out.parameters():
                nn.init.zeros_(parameter)
    features = random_features(SPEC, 1)
    changed = {"last": features["last"].clone()}
    changed["last"][..., 127] += torch.randn(24, 1)
    far = head.points[:, 0] < 512  # 1500 pixels away; the coarsest level's convolutions see some 500
    with torch.no_grad():
        before, after = head(features), head(changed)
    assert not torch.allclose(after.logits, before.logits)
    difference = (after.logits - before.logits)[:, far].abs().max()
    assert difference > 1e-6 if heard else difference == 0


def test_slots_are_told_where_the_patches_are() -> None:
    """Attention alone would not notice that the patches changed places."""
    torch.manual_seed(0)
    head = registry.build("mutual_attention", SPEC, 3, SMALL | {"layers": 1}).eval()
    assert isinstance(head, MutualAttention)
    x = torch.randn(1, 16, 2, 128)
    with torch.no_grad():
        mirrored = head.relate(x.flip(3)).flip(3)
        assert not torch.allclose(mirrored, head.relate(x), atol=1e-5)
        head.place.weight.zero_()
        torch.testing.assert_close(head.relate(x.flip(3)).flip(3), head.relate(x))
