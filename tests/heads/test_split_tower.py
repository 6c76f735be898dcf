"""What is particular to the split tower: bands, and classes compared with text."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.heads.split_tower import SplitTower
from tests.heads.worlds import SPECS, random_features

SPEC = FeatureSpec((FeatureLayer("last", 32, 16),), ("last",), 96, 160)
NARROW = {"hidden": 16, "standard_blocks": 1, "depthwise_blocks": 1, "text_dim": 24}


def _build(classes: int = 5, spec: FeatureSpec = SPEC, **options: object) -> SplitTower:
    torch.manual_seed(0)
    head = registry.build("split_tower", spec, classes, NARROW | options).eval()
    assert isinstance(head, SplitTower)
    return head


def _moved(head: SplitTower, change: Tensor) -> list[bool]:
    """Which of the five levels, strides s/2 to 8s, differ when the features are changed by so much."""
    features = random_features(SPEC, 1)
    with torch.no_grad():
        before, after = head.levels(features), head.levels({"last": features["last"] + change})
    return [not torch.allclose(first, second, rtol=0, atol=1e-4) for first, second in zip(before, after, strict=True)]


def _cut_laterals(head: SplitTower) -> SplitTower:
    for parameter in head.laterals.parameters():
        torch.nn.init.zeros_(parameter)
    return head


def test_what_lives_in_the_finest_band_moves_the_two_finest_levels_only() -> None:
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(3, 5)  # averages to nothing in every 2x2 cells
    assert _moved(_build(), signs * torch.randn(32, 1, 1)) == [True, True, False, False, False]


def test_what_lives_in_the_coarsest_band_reaches_the_finer_levels_by_the_laterals_alone() -> None:
    constant = torch.randn(32, 1, 1, generator=torch.Generator().manual_seed(0))
    assert _moved(_build(), constant) == [True] * 5
    assert _moved(_cut_laterals(_build()), constant) == [False, False, False, False, True]


def test_the_finest_map_of_a_hierarchical_network_is_joined() -> None:
    spec = SPECS["cnn-tall"]
    head, features = _build(spec=spec), random_features(spec, 1)
    before = head.levels(features)[0]
    head.finer.lateral = None
    assert not torch.allclose(head.levels(features)[0], before)


def test_text_prototypes_are_constants_and_learned_ones_are_parameters() -> None:
    names = {kind: dict(_build(prototypes=kind).named_parameters()) for kind in ("text", "learned")}
    assert "classifier.embeddings" in names["learned"]
    assert names["learned"].keys() - names["text"].keys() == {"classifier.embeddings"}
    assert "classifier.embeddings" in _build(prototypes="text").state_dict()


@pytest.mark.parametrize("classes", [5, 40])
def test_projection_starts_from_the_principal_directions_of_the_texts(classes: int) -> None:
    head = _build(classes)
    embeddings = torch.nn.functional.normalize(torch.randn(classes, 24) * torch.arange(1, 25), dim=1)
    head.set_class_embeddings(embeddings * 7)  # length does not matter
    torch.testing.assert_close(head.classifier.embeddings, embeddings, rtol=1e-5, atol=1e-6)
    count = min(classes, 24, 16)
    directions = head.classifier.cls_project.weight[:, :count].detach()
    torch.testing.assert_close(directions.T @ directions, torch.eye(count), rtol=0, atol=1e-4)
    # The best rank-r subspace of the texts keeps the r largest singular values' energy (Eckart-Young).
    energy = (embeddings @ directions).square().sum()
    assert float(energy) == pytest.approx(float(torch.linalg.svdvals(embeddings)[:count].square().sum()), rel=1e-4)


def test_embeddings_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(5, 23\), expected \(5, 24\)"):
        _build().set_class_embeddings(torch.zeros(5, 23))


def test_a_linear_classifier_takes_the_place_of_the_cosines_and_of_nothing_else() -> None:
    head, linear = _build(), _build(prototypes="linear")
    absent = linear.load_state_dict(head.state_dict(), strict=False)
    assert all(name.startswith("classifier.") for name in (*absent.missing_keys, *absent.unexpected_keys))
    features = random_features(SPEC, 2)
    with torch.no_grad():
        output, other = head(features), linear(features)
        by_hand = [
            torch.einsum("bchw,kc->bhwk", linear.class_tower(level), linear.classifier.weight[:, :, 0, 0]).flatten(1, 2)
            for level in linear.levels(features)
        ]
    assert torch.equal(other.boxes, output.boxes)
    torch.testing.assert_close(other.logits, torch.cat(by_hand, dim=1) + linear.classifier.bias)
    assert other.logits.sigmoid().mean() == pytest.approx(0.01, abs=1e-3)
    with pytest.raises(UserError, match="does not compare classes with text"):
        linear.set_class_embeddings(torch.eye(5, 24))


def test_without_bands_the_same_weights_read_averages() -> None:
    head, plain = _build(), _build(scales="lowpass")
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in head.state_dict().items())
    heard: list[Tensor] = []
    plain.stem.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    x = torch.randn(1, 32, 8, 16)
    plain.levels({"last": x})
    for octave, average in enumerate(heard):
        torch.testing.assert_close(average, F.avg_pool2d(x, 2**octave))
    assert len(heard) == 4


def test_a_learned_pyramid_takes_the_place_of_the_bands() -> None:
    head, learned = _build(), _build(scales="pyramid")
    added = learned.state_dict().keys() - head.state_dict().keys()
    assert added and all(name.startswith("coarser.") for name in added)
    features = random_features(SPEC, 1)
    _, *levels = _cut_laterals(learned).levels(features)
    torch.testing.assert_close(levels[0], learned.stem(features["last"]))
    for (finer, coarser), downsample in zip(pairwise(levels), learned.coarser, strict=True):
        assert torch.equal(coarser, downsample(finer))


def test_one_tower_for_both_tasks_has_the_weights_of_two() -> None:
    head, shared = _build(), _build(towers="shared")
    assert all(torch.equal(value, shared.state_dict()[name]) for name, value in head.state_dict().items())
    features = random_features(SPEC, 1)
    for part in (shared.class_tower, shared.box_tower):
        before = shared(features)
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter))
        after = shared(features)
        assert not torch.equal(after.boxes, before.boxes)
        assert not torch.equal(after.logits, before.logits)
