"""What is particular to prototypes: they are means of backbone features or texts, and nothing learns them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.backbones.features import FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.blocks import join_main, join_stride
from detheads.heads.prototype import Prototype
from tests.heads.worlds import CLASSES, SPECS, no_objects, objects, random_features, total_loss


def _head(spec: FeatureSpec, prototypes: str = "image", classes: int = CLASSES, **options: object) -> Prototype:
    torch.manual_seed(0)
    config = {"width": 16, "tower_blocks": 1, "text_dim": 24, "prototypes": prototypes} | options
    head = registry.build("prototype", spec, classes, config)
    assert isinstance(head, Prototype)
    return head


def _means(head: Prototype, spec: FeatureSpec, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    """The mean unit feature of each class, point by point, of batches of one image with objects and one without."""
    seen: list[list[Tensor]] = [[] for _ in range(CLASSES)]
    target, stride = objects(spec), join_stride(spec)
    matched = head.assign(target.boxes).matched.tolist()
    for features in batches:
        joined = join_main(features, spec)[0]
        for (x, y), index in zip(head.points.tolist(), matched, strict=True):
            if index >= 0:
                row, column = min(int(y // stride), joined.shape[1] - 1), min(int(x // stride), joined.shape[2] - 1)
                vector = joined[:, row, column]
                seen[target.labels.tolist()[index]].append(vector / vector.norm())
    return [torch.stack(vectors).mean(dim=0) for vectors in seen]


@pytest.mark.parametrize("name", ["vit-wide", "cnn-tall"])
def test_image_prototypes_are_the_mean_backbone_features_of_all_positive_points(name: str) -> None:
    spec = SPECS[name]
    head = _head(spec, dropout=0.5).train()
    batches = [random_features(spec, 2, seed=seed) for seed in range(3)]
    for features in batches:
        head.loss(head(features), [objects(spec), no_objects()])
    torch.testing.assert_close(head.classes.embeddings, torch.stack(_means(head, spec, batches)))


def test_a_class_without_objects_keeps_its_direction() -> None:
    spec = SPECS["vit-square"]
    head = _head(spec, classes=CLASSES + 2).train()
    before = head.classes.embeddings.clone()
    head.loss(head(random_features(spec, 1)), [objects(spec)])
    assert torch.equal(head.classes.embeddings[CLASSES:], before[CLASSES:])
    assert not torch.isclose(head.classes.embeddings[:CLASSES], before[:CLASSES]).all(dim=1).any()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(CLASSES + 2))


@pytest.mark.parametrize("prototypes", ["text", "image"])
def test_gradients_reach_the_projection_and_not_the_prototypes(prototypes: str) -> None:
    spec = SPECS["vit-square"]
    head = _head(spec, prototypes).train()
    total_loss(head, random_features(spec, 1), [objects(spec)]).backward()
    assert "classes.embeddings" in head.state_dict() and not head.classes.embeddings.requires_grad
    assert all(value.grad is not None for name, value in head.named_parameters() if name.startswith("classes."))


def test_evaluation_leaves_the_prototypes_alone() -> None:
    spec = SPECS["vit-square"]
    head = _head(spec).eval()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    head.loss(head(random_features(spec, 1)), [objects(spec)])
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_image_prototypes_travel_with_the_weights() -> None:
    spec = SPECS["vit-square"]
    head, other = _head(spec).train(), _head(spec)
    head.loss(head(random_features(spec, 1)), [objects(spec)])
    other.load_state_dict(head.state_dict(), strict=True)
    features = random_features(spec, 1, seed=1)
    assert torch.equal(other.eval()(features).logits, head.eval()(features).logits)


def test_given_text_becomes_the_prototypes() -> None:
    spec, embeddings = SPECS["vit-square"], torch.randn(CLASSES, 24)
    head = _head(spec, "text")
    head.set_class_embeddings(embeddings * 3)
    torch.testing.assert_close(head.classes.embeddings, F.normalize(embeddings, dim=1))
    head.train().loss(head(random_features(spec, 1)), [objects(spec)])
    torch.testing.assert_close(head.classes.embeddings, F.normalize(embeddings, dim=1))


def test_image_prototypes_refuse_text() -> None:
    with pytest.raises(UserError, match="does not compare classes with text"):
        _head(SPECS["vit-square"]).set_class_embeddings(torch.eye(CLASSES, 48))


def test_learned_prototypes_compute_the_same_and_are_parameters() -> None:
    spec = SPECS["vit-square"]
    fixed, learned = _head(spec, "text"), _head(spec, "learned")
    assert fixed.state_dict().keys() == learned.state_dict().keys()
    assert all(torch.equal(value, learned.state_dict()[name]) for name, value in fixed.state_dict().items())
    features = random_features(spec, 1)
    for name in ("boxes", "logits", "quality"):
        assert torch.equal(getattr(fixed(features), name), getattr(learned(features), name))
    assert {name for name, _ in learned.named_parameters()} - {name for name, _ in fixed.named_parameters()} == {
        "classes.embeddings"
    }
    total_loss(learned.train(), features, [objects(spec)]).backward()
    assert learned.classes.embeddings.grad is not None and learned.classes.embeddings.grad.any()
