"""What every head promises, tested on every registered one."""

import json

import pytest
import torch

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.heads.patch_assembly import PatchAssembly
from tests.heads.worlds import (
    CLASSES,
    no_objects,
    objects,
    random_features,
    small_config,
    small_head,
    total_loss,
    with_blocks,
)


def test_output_has_boxes_logits_and_quality_of_one_candidate_count(head: Head, spec: FeatureSpec) -> None:
    output = head(random_features(spec, 3))
    candidates = output.boxes.shape[1]
    assert output.boxes.shape == (3, candidates, 4)
    assert output.logits.shape == (3, candidates, CLASSES)
    assert output.quality is None or output.quality.shape == (3, candidates)
    assert candidates >= 1
    assert output.boxes.dtype == output.logits.dtype == torch.float32


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_output_is_finite_and_boxes_are_not_inside_out_whatever_the_features(
    head: Head, spec: FeatureSpec, scale: float
) -> None:
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1 + 9 * (scale > 1))  # weights far from their start as well
        output = head(random_features(spec, 2, scale=scale))
    for tensor in (output.boxes, output.logits, output.quality):
        assert tensor is None or torch.isfinite(tensor).all()
    assert (output.boxes[..., 2:] >= output.boxes[..., :2]).all()


def test_a_batch_equals_its_images_one_by_one(head: Head, spec: FeatureSpec) -> None:
    features = random_features(spec, 3)
    with torch.no_grad():
        together = head(features)
        for row in range(3):
            alone = head({name: values[row : row + 1] for name, values in features.items()})
            torch.testing.assert_close(alone.boxes[0], together.boxes[row], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-4, rtol=1e-4)


def test_a_narrow_head_runs_on_one_small_image(entry: registry.Entry) -> None:
    """Its coarsest map is a single cell there, which normalisation has to survive."""
    spec = with_blocks(entry, FeatureSpec((FeatureLayer("last", 32, 16),), ("last",), 64, 64))
    output = small_head(entry, spec)(random_features(spec, 1))
    assert torch.isfinite(output.boxes).all()


def test_the_image_decides_the_output(head: Head, spec: FeatureSpec) -> None:
    with torch.no_grad():
        first, second = head(random_features(spec, 1, seed=1)), head(random_features(spec, 1, seed=2))
    assert not torch.allclose(first.logits, second.logits)
    assert not torch.allclose(first.boxes, second.boxes)


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


def test_gradients_reach_every_parameter(head: Head, spec: FeatureSpec) -> None:
    head.train()
    optimiser = torch.optim.SGD(head.parameters(), lr=1e-3)
    reached: set[str] = set()
    for step in range(3):  # what starts at zero blocks the gradient of what lies before it in the first step
        optimiser.zero_grad()
        total_loss(head, random_features(spec, 2, seed=step), [objects(spec), no_objects()]).backward()
        for name, parameter in head.named_parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), name
                if parameter.grad.abs().max() > 0:
                    reached.add(name)
        optimiser.step()
    assert reached == {name for name, _ in head.named_parameters()}


@pytest.mark.parametrize("empty", [1, 2])
def test_images_without_objects_give_finite_losses_and_gradients(head: Head, spec: FeatureSpec, empty: int) -> None:
    head.train()
    targets = [no_objects()] * empty + [objects(spec)] * (2 - empty)
    losses = head.loss(head(random_features(spec, 2)), targets)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    gradients = [parameter.grad for parameter in head.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)  # background is learned too


def test_a_few_steps_lower_the_loss(head: Head, spec: FeatureSpec) -> None:
    head.train()
    features, targets = random_features(spec, 2), [objects(spec), no_objects()]
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3)
    values = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = total_loss(head, features, targets)
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.97 * values[0]


def test_one_seed_gives_one_head(entry: registry.Entry, spec: FeatureSpec) -> None:
    first, second, other = (small_head(entry, spec, seed=seed).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_weights_load_into_a_head_rebuilt_from_its_recorded_configuration(
    entry: registry.Entry, spec: FeatureSpec
) -> None:
    original = small_head(entry, spec, seed=9)
    recorded = registry.config_dict(entry, small_config(entry))
    rebuilt = registry.build(entry.name, spec, CLASSES, recorded).eval()
    rebuilt.load_state_dict(original.state_dict(), strict=True)
    features = random_features(spec, 1)
    with torch.no_grad():
        assert torch.equal(rebuilt(features).boxes, original(features).boxes)


def test_two_trainings_from_one_saved_configuration_and_seed_are_equal(
    entry: registry.Entry, spec: FeatureSpec
) -> None:
    saved = json.loads(json.dumps(registry.config_dict(entry, small_config(entry))))
    features, targets = random_features(spec, 2), [objects(spec), no_objects()]

    def train() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        head = registry.build(entry.name, spec, CLASSES, saved).train()
        optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3)
        for _ in range(2):
            optimiser.zero_grad()
            total_loss(head, features, targets).backward()
            optimiser.step()
        return head.state_dict()

    first, second = train(), train()
    assert all(torch.equal(first[name], second[name]) for name in first)
