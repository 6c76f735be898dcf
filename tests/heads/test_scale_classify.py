"""The size of a box comes from the classified scale, and from nothing else."""

import math

import pytest
import torch
from torch import Tensor

from detheads.backbones.features import FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.heads.scale_classify import ScaleClassify, expected_log_scale, sized_distances, soft_scale_labels
from detheads.targets.objects import Targets
from tests.heads.worlds import SPECS, random_features

LOG_SCALES = torch.linspace(math.log(4), math.log(512), 8)  # an octave apart


def _build(spec: FeatureSpec, **options: int) -> ScaleClassify:
    torch.manual_seed(0)
    head = registry.build("scale_classify", spec, 5, {"width": 16, "tower_blocks": 1} | options)
    assert isinstance(head, ScaleClassify)
    return head


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_area_of_a_box_is_the_square_of_its_scale_whatever_the_shape(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = spread * torch.randn(2, 50, 4, generator=generator)
    log_scale = torch.linspace(1, 6, 50).expand(2, 50)
    left, top, right, bottom = sized_distances(shapes, log_scale).unbind(dim=2)
    torch.testing.assert_close((left + right) * (top + bottom), (2 * log_scale).exp(), rtol=1e-4, atol=0)
    bounded = shapes.clamp(-8, 8)
    torch.testing.assert_close((left / right).log(), bounded[..., 0] - bounded[..., 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vit-wide", "cnn-tall"])
def test_the_heads_boxes_have_the_area_of_their_expected_scale(name: str) -> None:
    head = _build(SPECS[name])
    with torch.no_grad():
        head.scales.weight.mul_(100)
        head.distances.weight.mul_(10)
        output = head(random_features(SPECS[name], 2))
    scores = output.extras["scale_logits"].double()
    probabilities = scores.exp() / scores.exp().sum(dim=2, keepdim=True)
    sizes = (probabilities @ head.log_scales.double()).exp()
    assert sizes.std() > 1
    torch.testing.assert_close(_areas(output.boxes).double(), sizes.square(), rtol=1e-3, atol=1e-2)


def test_scales_reach_from_a_quarter_cell_to_the_diagonal() -> None:
    scales = _build(SPECS["vit-wide"]).log_scales.exp().tolist()
    assert len(scales) == 12
    assert (scales[0], scales[-1]) == pytest.approx((4.0, math.hypot(80, 208)))


def test_labels_are_exact_on_a_bin_shared_between_two_and_bounded_beyond() -> None:
    sizes = torch.tensor([4.0, 16.0, 512.0, 32 * 2**0.25, 1.0, 9000.0])
    labels = soft_scale_labels(sizes, LOG_SCALES)
    expected = torch.zeros(6, 8)
    expected[0, 0] = expected[1, 2] = expected[2, 7] = expected[4, 0] = expected[5, 7] = 1.0
    expected[3, 3], expected[3, 4] = 0.75, 0.25
    torch.testing.assert_close(labels, expected, rtol=0, atol=1e-5)


def test_a_distribution_that_equals_its_label_has_the_objects_size() -> None:
    sizes = torch.linspace(4, 512, 100)
    logits = soft_scale_labels(sizes, LOG_SCALES).clamp(min=1e-30).log()
    torch.testing.assert_close(expected_log_scale(logits[None], LOG_SCALES)[0].exp(), sizes, rtol=1e-4, atol=0)


def test_the_scale_loss_is_least_at_the_scale_of_the_object() -> None:
    head = _build(SPECS["vit-square"])
    target = Targets(torch.tensor([[30.0, 40.0, 90.0, 80.0]]), torch.tensor([1]))
    output = head(random_features(SPECS["vit-square"], 1))
    losses = []
    for size in (30.0, math.sqrt(60 * 40), 80.0):
        label = soft_scale_labels(torch.tensor([size]), head.log_scales).clamp(min=1e-6).log()
        output.extras["scale_logits"] = label.expand(1, len(head.points), 12)  # type: ignore[index]
        losses.append(float(head.loss(output, [target])["scale"].detach()))
    assert losses[1] < min(losses[0], losses[2])


def test_one_scale_is_no_classification() -> None:
    with pytest.raises(UserError, match="scales of head scale_classify must be a whole number of 2 or more, not 1"):
        _build(SPECS["vit-square"], scales=1)
