"""The cosine classifier against its formula."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.headkit.cosine import CosineClassifier


def _plain(classifier: CosineClassifier, x: Tensor) -> Tensor:
    """The same logits by way of the space of the classes, ``[B, K, H, W]``."""
    projected = F.linear(x.permute(0, 2, 3, 1), classifier.cls_project.weight)  # [B, H, W, text_dim]
    cosine = F.cosine_similarity(projected.unsqueeze(3), classifier.embeddings, dim=4)  # [B, H, W, K]
    return (cosine * classifier.logit_scale.exp() + classifier.cls_bias).permute(0, 3, 1, 2)


def test_class_logit_is_scaled_cosine_plus_bias() -> None:
    classifier = CosineClassifier(16, 2, 24, learned=False)
    with torch.no_grad():
        classifier.embeddings.zero_()
        classifier.embeddings[0, 0], classifier.embeddings[1, 1] = 1.0, 1.0
        classifier.cls_project.weight.zero_()
        classifier.cls_project.weight[0, 0], classifier.cls_project.weight[1, 1] = 1.0, 1.0
        classifier.cls_bias.copy_(torch.tensor([0.5, -0.25]))
        classifier.logit_scale.fill_(math.log(10.0))
        x = torch.zeros(1, 16, 1, 1)
        x[0, 0], x[0, 1] = 3.0, 4.0
        assert classifier(x).flatten().tolist() == pytest.approx([10 * 0.6 + 0.5, 10 * 0.8 - 0.25], abs=1e-4)
        classifier.logit_scale.fill_(50.0)  # CLIP's bound: the scale is at most 100
        assert classifier(x).flatten().tolist() == pytest.approx([60.5, 79.75], abs=1e-3)


@pytest.mark.parametrize("size", [0.01, 1.0])
@pytest.mark.parametrize("text_dim", [4, 16, 200])
def test_logits_and_gradients_equal_those_by_way_of_the_space_of_the_classes(text_dim: int, size: float) -> None:
    torch.manual_seed(0)
    classifier = CosineClassifier(16, 7, text_dim, learned=True)
    x, weights = size * torch.randn(2, 16, 3, 5), torch.randn(2, 7, 3, 5)
    x.requires_grad_()
    torch.testing.assert_close(classifier(x), _plain(classifier, x), rtol=1e-4, atol=1e-4)
    inputs = [x, *classifier.parameters()]
    found, expected = (
        torch.autograd.grad((logits * weights).sum(), inputs) for logits in (classifier(x), _plain(classifier, x))
    )
    torch.testing.assert_close(found[0] * size, expected[0] * size, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1:], expected[1:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("classes", "text_dim"), [(7, 24), (40, 24), (12, 96)])
def test_the_projection_starts_from_numpys_right_singular_vectors_up_to_their_signs(
    classes: int, text_dim: int
) -> None:
    """As many columns as there are; those beyond keep the random numbers that they had."""
    torch.manual_seed(0)
    classifier = CosineClassifier(16, classes, text_dim, learned=False)
    before = classifier.cls_project.weight.detach().clone()
    texts = torch.randn(classes, text_dim) * torch.linspace(1, 3, text_dim)  # singular values of their own
    classifier.set_embeddings(texts)
    rows = texts.double().numpy()
    components = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True)).Vh
    count = min(classes, text_dim, 16)
    found = classifier.cls_project.weight.detach().double().numpy()  # [text_dim, hidden]
    signs = np.sign((found[:, :count] * components[:count].T).sum(axis=0))
    np.testing.assert_allclose(found[:, :count] * signs, components[:count].T, rtol=0, atol=1e-4)
    assert torch.equal(classifier.cls_project.weight[:, count:], before[:, count:])


@pytest.mark.parametrize("learned", [False, True])
def test_it_learns_a_projection_a_scale_and_biases_and_starts_at_clips_temperature(learned: bool) -> None:
    classifier = CosineClassifier(16, 7, 24, learned=learned)
    names = {"cls_project.weight", "logit_scale", "cls_bias"} | ({"embeddings"} if learned else set())
    assert {name for name, _ in classifier.named_parameters()} == names
    assert float(classifier.logit_scale.detach().exp()) == pytest.approx(1 / 0.07)
    torch.testing.assert_close(classifier.embeddings.norm(dim=1), torch.ones(7))


def test_a_point_without_features_has_the_bias_as_its_logits() -> None:
    classifier = CosineClassifier(16, 7, 200, learned=True)
    assert torch.equal(classifier(torch.zeros(1, 16, 1, 1)).flatten(), classifier.cls_bias)


def test_logits_keep_their_digits_in_mixed_precision() -> None:
    torch.manual_seed(0)
    classifier, x = CosineClassifier(16, 7, 200, learned=True), torch.randn(2, 16, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = classifier(x)
    assert torch.equal(mixed, classifier(x))


def test_the_projection_starts_at_random_where_its_components_are_not_wanted() -> None:
    torch.manual_seed(0)
    classifier = CosineClassifier(16, 7, 24, learned=False)
    before = classifier.cls_project.weight.detach().clone()
    texts = F.normalize(torch.randn(7, 24), dim=1)
    classifier.set_embeddings(texts, pc_init=False)
    assert torch.equal(classifier.cls_project.weight, before)
    torch.testing.assert_close(classifier.embeddings, texts)
