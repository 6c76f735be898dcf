"""With all its ideas off a head is octaves and towers: the same weights, the same start, the same numbers."""

import pytest
import torch

from detheads.headkit import registry
from detheads.headkit.dense import PyramidConfig
from detheads.headkit.octaves import OctaveHead
from tests.heads.worlds import CLASSES, SPECS, no_objects, objects, random_features

SPEC = SPECS["cnn-tall"]


@pytest.mark.parametrize(
    ("name", "options", "levels"),
    [
        ("curvature", {"borders": "none"}, 5),
        ("feature_graph", {"rounds": 0}, 4),
    ],
)
def test_a_head_without_its_ideas_is_octaves_and_towers(name: str, options: dict[str, object], levels: int) -> None:
    torch.manual_seed(0)
    head = registry.build(name, SPEC, CLASSES, {"width": 16, "tower_blocks": 1} | options)
    torch.manual_seed(0)
    plain = OctaveHead(SPEC, CLASSES, levels, PyramidConfig(width=16, tower_blocks=1), "atss")
    wanted = plain.state_dict()
    assert head.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in head.state_dict().items())
    features, targets = random_features(SPEC, 2), [objects(SPEC), no_objects()]
    outputs = [each(features) for each in (head, plain)]
    assert torch.equal(outputs[0].boxes, outputs[1].boxes)
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    losses = [each.loss(output, targets) for each, output in zip((head, plain), outputs, strict=True)]
    assert losses[0] == losses[1]


def test_patches_without_rounds_are_the_votes_of_octaves_and_towers() -> None:
    """What they learn is their own: every cell of a box, with the same say."""
    torch.manual_seed(0)
    head = registry.build("patch_assembly", SPEC, CLASSES, {"width": 16, "tower_blocks": 1, "rounds": 0})
    torch.manual_seed(0)
    plain = OctaveHead(SPEC, CLASSES, 5, PyramidConfig(width=16, tower_blocks=1), "atss")
    assert head.state_dict().keys() == plain.state_dict().keys()
    features = random_features(SPEC, 2)
    outputs = [each(features) for each in (head, plain)]
    assert torch.equal(outputs[0].boxes, outputs[1].boxes)
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert head.loss(outputs[0], [objects(SPEC)] * 2).keys() == {"classification", "box", "centerness"}
