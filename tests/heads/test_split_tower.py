"""What is particular to the split tower: bands, and classes compared with text."""

import pytest
import torch

from detheads.backbones.features import FeatureLayer, FeatureSpec
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


def test_five_levels_from_half_to_eight_strides() -> None:
    levels = _build().levels(random_features(SPEC, 1))
    assert [tuple(level.shape[2:]) for level in levels] == [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]


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
