"""In what the controlled variants of FCOS differ from it, and in what they do not."""

import pytest
import torch

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.cost import parameters_of
from tests.heads.worlds import SPECS, random_features, with_blocks

BASE = FeatureSpec((FeatureLayer("last", 768, 16),), ("last",), 768, 768)
NARROW = {"width": 16, "tower_blocks": 1}


@pytest.mark.parametrize(("name", "parameters"), [("slim_fcos", 1_045_530), ("hook_fcos", 17_909_850)])
def test_a_variant_has_the_stated_number_of_parameters(name: str, parameters: int) -> None:
    assert parameters_of(registry.build(name, with_blocks(registry.entry(name), BASE), 80)) == parameters


@pytest.mark.parametrize("name", ["vit-wide", "vit-patch14", "cnn-tall"])
def test_slim_fcos_has_the_points_of_fcos_and_scales_at_its_own_width(name: str) -> None:
    slim, full = (registry.build(head, SPECS[name], 5, NARROW) for head in ("slim_fcos", "fcos"))
    assert torch.equal(slim.points, full.points)
    widest = max(layer.channels for layer in SPECS[name].layers)
    spatial = [weight for key, weight in slim.named_parameters() if key.startswith("pyramid") and weight.ndim == 4]
    assert all(weight.shape[1] <= 16 for weight in spatial if weight.shape[2] > 1)
    assert widest > 16


def test_hook_fcos_starts_as_fcos_and_then_hears_each_block() -> None:
    spec = with_blocks(registry.entry("hook_fcos"), SPECS["vit-wide"])
    features = random_features(spec, 1)
    heads = []
    for name in ("fcos", "hook_fcos"):
        torch.manual_seed(3)
        heads.append(registry.build(name, spec, 5, NARROW).eval())
    full, hooked = heads
    wanted = full(features).logits
    assert torch.equal(hooked(features).logits, wanted)
    for projection in hooked.pyramid.projections:
        torch.nn.init.normal_(projection.weight, std=0.1)
    levels = hooked.levels(features)
    for index, block in enumerate((2, 5, 8)):
        changed = hooked.levels(features | {f"block{block}": 2 * features[f"block{block}"]})
        heard = [not torch.equal(first, second) for first, second in zip(levels, changed, strict=True)]
        assert heard[:3] == [index == level for level in range(3)], block


def test_hook_fcos_refuses_features_without_its_blocks_or_of_several_maps() -> None:
    with pytest.raises(UserError, match=r"reads block2, block5, block8, .* --layers 2,5,8"):
        registry.build("hook_fcos", SPECS["vit-wide"], 5)
    several = with_blocks(registry.entry("hook_fcos"), SPECS["cnn-tall"])
    with pytest.raises(UserError, match="a plain transformer, not stride8, stride16, stride32 together"):
        registry.build("hook_fcos", several, 5)
