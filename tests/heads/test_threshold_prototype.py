"""What is particular to thresholds: they take detections away, they never add any, and they are learned."""

import pytest
import torch
import torch.nn.functional as F

from detheads.headkit import registry
from detheads.headkit.cosine import CosineClassifier
from detheads.heads.threshold_prototype import SOFTNESS, GatedPrototypes, ThresholdPrototype, step
from detheads.ops.scores import detection_scores
from tests.heads.worlds import CLASSES, SPECS, objects, random_features, total_loss

SPEC = SPECS["vit-wide"]
SCORE_THRESHOLD = 0.05


def _head(**options: object) -> ThresholdPrototype:
    torch.manual_seed(0)
    narrow = {"width": 16, "tower_blocks": 1, "per_class": 3}
    head = registry.build("threshold_prototype", SPEC, CLASSES, narrow | options)
    assert isinstance(head, ThresholdPrototype)
    return head.eval()


def _scores(head: ThresholdPrototype) -> torch.Tensor:
    with torch.no_grad():
        output = head(random_features(SPEC, 2))
    return detection_scores(output.logits, output.quality)


def test_similarity_is_the_cosine_with_the_closest_prototype() -> None:
    torch.manual_seed(0)
    classifier, x = GatedPrototypes(16, 5, 3), torch.randn(2, 16, 4, 6)
    points = classifier.embed(x).permute(0, 2, 3, 1)[..., None, None, :]  # [B, H, W, 1, 1, 16]
    expected = F.cosine_similarity(points, classifier.prototypes, dim=5).amax(dim=4)  # [B, H, W, 5]
    torch.testing.assert_close(classifier.similarity(x), expected.permute(0, 3, 1, 2))


def test_only_what_exceeds_the_threshold_of_its_class_is_detected() -> None:
    torch.manual_seed(0)
    classifier, x = GatedPrototypes(16, 5, 3), torch.randn(2, 16, 9, 9)
    with torch.no_grad():
        classifier.thresholds.copy_(torch.tensor([-1.0, 0.1, 0.25, 0.5, 1.1]))
        classifier.bias.fill_(20.0)  # every score is near 1 but for the gate
        logits, similarity = classifier(x), classifier.similarity(x)
    best = detection_scores(logits.flatten(2).transpose(1, 2), torch.full((2, 81), 50.0))  # [2, 81, 5]
    detected = (best > SCORE_THRESHOLD).transpose(1, 2).view(2, 5, 9, 9)
    opened = [similarity[:, label] > threshold for label, threshold in enumerate(classifier.thresholds.tolist())]
    assert torch.equal(detected, torch.stack(opened, dim=1))
    assert [bool(detected[:, label].any()) for label in (0, 4)] == [True, False]
    assert detected[:, 0].all() and 0 < detected[:, 2].sum() < detected[:, 1].sum() < detected[:, 0].sum()


def test_raising_thresholds_removes_detections_and_leaves_the_others_as_they_are() -> None:
    head = _head()
    with torch.no_grad():
        head.classes.bias.fill_(0.0)
    earlier = None
    counts = []
    for threshold in (-1.0, 0.0, 0.2, 0.4, 0.6, 1.0):
        with torch.no_grad():
            head.classes.thresholds.fill_(threshold)
        scores = _scores(head)
        detected = scores > SCORE_THRESHOLD
        counts.append(int(detected.sum()))
        if earlier is not None:
            assert (earlier > SCORE_THRESHOLD)[detected].all()
            assert torch.equal(scores[detected], earlier[detected])
        earlier = scores
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) >= 4 and counts[-1] == 0


def test_training_computes_what_is_deployed() -> None:
    head = _head()
    features = random_features(SPEC, 2)
    assert torch.equal(head.train()(features).logits, head.eval()(features).logits)


@pytest.mark.parametrize("margin", [-0.5, -0.05, 0.0, 0.2])
def test_the_step_is_hard_and_its_gradient_is_a_sigmoids(margin: float) -> None:
    x = torch.tensor(margin, requires_grad=True)
    value = step(x)
    (gradient,) = torch.autograd.grad(value, x)
    (expected,) = torch.autograd.grad((x / SOFTNESS).sigmoid(), x)
    assert float(value.detach()) == float(margin > 0)
    torch.testing.assert_close(gradient, expected)
    assert gradient > 0


def test_a_threshold_that_shuts_objects_out_is_lowered_and_one_that_lets_background_in_is_raised() -> None:
    head = _head().train()
    target = objects(SPEC)
    for threshold, sign in ((0.9, 1), (-1.0, -1)):
        head.zero_grad()
        with torch.no_grad():
            head.classes.thresholds.fill_(threshold)
            head.classes.bias.fill_(3.0)
        total_loss(head, random_features(SPEC, 1), [target]).backward()
        assert head.classes.thresholds.grad is not None
        assert (sign * head.classes.thresholds.grad > 0).all()


def test_without_thresholds_it_is_the_head_whose_thresholds_nothing_fails() -> None:
    head, ungated = _head(), _head(thresholds=False)
    weights, others = head.state_dict(), ungated.state_dict()
    assert weights.keys() - others.keys() == {"classes.thresholds"}
    assert all(torch.equal(value, weights[name]) for name, value in others.items())
    with torch.no_grad():
        head.classes.thresholds.fill_(-1.1)
        wanted, found = (each(random_features(SPEC, 2)) for each in (head, ungated))
    torch.testing.assert_close(found.logits, wanted.logits)
    assert torch.equal(found.boxes, wanted.boxes)


def test_with_neither_thresholds_nor_several_prototypes_it_is_a_classifier_by_cosines() -> None:
    torch.manual_seed(0)
    classifier, usual = GatedPrototypes(16, 5, 1, gated=False), CosineClassifier(16, 5, 16, learned=True)
    usual.cls_project.weight.data = classifier.embed.weight.data[:, :, 0, 0]
    usual.embeddings.data = classifier.prototypes.data[:, 0]
    x = torch.randn(2, 16, 4, 6)
    torch.testing.assert_close(classifier(x), usual(x), rtol=1e-4, atol=1e-4)
