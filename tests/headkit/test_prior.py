"""At the start every class is rare everywhere, whatever the features and the class embeddings are."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.backbones.features import FeatureSpec
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.headkit.dense import PointHead
from detheads.headkit.prior import MAX_SPREAD, PRIOR_BIAS, start_bias, start_from
from detheads.ops.losses import sigmoid_focal_loss
from detheads.targets.objects import Targets
from tests.heads.worlds import SPECS, no_objects, objects, random_features, small_config, with_blocks

SPEC = SPECS["vit-wide"]
DENSE = [name for name, entry in registry.trainable().items() if issubclass(entry.head, PointHead)]
TEXT = [name for name in DENSE if "text" in registry.choices(registry.entry(name), "prototypes")]


def _features(spec: FeatureSpec) -> dict[str, Tensor]:
    """As those of a real encoder: every channel has a mean and a spread of its own, so that points are alike."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: values * torch.rand(values.shape[1], 1, 1, generator=generator)
        + 2 * torch.randn(values.shape[1], 1, 1, generator=generator)
        for name, values in random_features(spec, 2).items()
    }


def _head(name: str, classes: int, embeddings: Tensor | None = None, seed: int = 0) -> tuple[Head, FeatureSpec]:
    torch.manual_seed(seed)
    entry = registry.entry(name)
    kinds = [kind for kind in registry.choices(entry, "prototypes") if kind != "text"]
    options: dict[str, object] = {"prototypes": kinds[0]} if kinds else {}
    if embeddings is not None:
        options = {"prototypes": "text", "text_dim": embeddings.shape[1]}
    spec = with_blocks(entry, SPEC)
    head = registry.build(name, spec, classes, small_config(entry) | options).train()
    if embeddings is not None:
        head.set_class_embeddings(embeddings)
    return head, spec


def _first_loss_by_the_priors(head: Head, spec: FeatureSpec, classes: int) -> float:
    features, target = _features(spec), objects(SPEC)
    targets = [Targets(target.boxes, target.labels % classes), no_objects()]
    head.start_from(features)
    with torch.no_grad():
        output = head(features)
        # Before the loss, which may teach a head its prototypes.
        prior = head.loss(replace(output, logits=torch.full_like(output.logits, PRIOR_BIAS)), targets)
        first = head.loss(output, targets)
    return float(first["classification"] / prior["classification"])


@pytest.mark.parametrize("classes", [1, 7, 80])
@pytest.mark.parametrize("name", DENSE)
def test_the_first_loss_is_within_a_factor_of_two_of_the_priors(name: str, classes: int) -> None:
    head, spec = _head(name, classes)
    assert 0.5 < _first_loss_by_the_priors(head, spec, classes) < 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [1, 7, 80])
@pytest.mark.parametrize("name", TEXT)
def test_it_is_with_texts_that_resemble_each_other(name: str, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(classes, 96, generator=generator) + 2 * torch.randn(96, generator=generator)
    head, spec = _head(name, classes, F.normalize(embeddings, dim=1), seed)
    assert 0.5 < _first_loss_by_the_priors(head, spec, classes) < 2


TEXTS = {
    "all alike": torch.ones(7, 24),
    "opposite": torch.linspace(-1, 1, 7).sign()[:, None] * torch.ones(24) + torch.eye(7, 24) / 100,
    "orthogonal": torch.eye(7, 24),
    "more classes than dimensions": torch.randn(80, 6, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("name", TEXT)
def test_it_is_with_any_texts(name: str, texts: str) -> None:
    embeddings = F.normalize(TEXTS[texts], dim=1)
    head, spec = _head(name, len(embeddings), embeddings)
    assert 0.5 < _first_loss_by_the_priors(head, spec, len(embeddings)) < 2


@pytest.mark.parametrize("classes", [1, 7, 80])
@pytest.mark.parametrize("name", TEXT)
def test_it_is_with_real_texts(name: str, classes: int, clip_embeddings: Path) -> None:
    embeddings = torch.from_numpy(np.load(clip_embeddings)).float()[:classes]
    head, spec = _head(name, classes, embeddings)
    assert 0.5 < _first_loss_by_the_priors(head, spec, classes) < 2


def test_the_prior_is_a_score_of_one_in_a_hundred() -> None:
    assert float(torch.tensor(PRIOR_BIAS, dtype=torch.float64).sigmoid()) == pytest.approx(0.01)


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_with_the_start_bias_background_costs_what_the_prior_costs(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([-3.0, 0.0, 9.0]) + spread * torch.randn(2, 5000, 3, generator=generator)
    background = torch.zeros(10000)
    prior = float(sigmoid_focal_loss(torch.full((10000,), PRIOR_BIAS), background))
    for label, started in enumerate((logits + start_bias(logits)).flatten(0, 1).unbind(dim=1)):
        assert float(sigmoid_focal_loss(started, background)) == pytest.approx(prior, rel=0.15), label


@pytest.mark.parametrize(("spread", "kept"), [(0.5, 1.0), (4.0, 0.25 * MAX_SPREAD)])
def test_the_scale_shrinks_where_logits_are_spread_and_never_grows(spread: float, kept: float) -> None:
    """The spread is that within a class; how far classes lie apart is the bias's affair."""
    noise = torch.randn(1, 20000, 2, generator=torch.Generator().manual_seed(0))
    logits = torch.tensor([-6.0, 6.0]) + spread * noise
    log_scale, bias = torch.zeros(()), torch.zeros(2)
    start_from(logits, log_scale, bias)
    assert float(log_scale.exp()) == pytest.approx(kept, rel=0.03)
    torch.testing.assert_close(bias, start_bias(logits * kept), rtol=0, atol=0.2)


def test_a_single_point_sets_the_bias_and_leaves_the_scale() -> None:
    log_scale, bias = torch.zeros(()), torch.zeros(2)
    start_from(torch.tensor([[[2.0, -3.0]]]), log_scale, bias)
    assert float(log_scale) == 0
    torch.testing.assert_close(bias, PRIOR_BIAS - torch.tensor([2.0, -3.0]))


@pytest.mark.parametrize(("points", "kept"), [([3.0], 1.0), ([-4.0, 4.0], 1 / math.sqrt(32)), ([0.1, 0.2], 1.0)])
def test_two_points_have_a_spread_and_one_has_none(points: list[float], kept: float) -> None:
    log_scale, bias = torch.zeros(()), torch.zeros(1)
    start_from(torch.tensor(points).view(1, -1, 1), log_scale, bias)
    assert float(log_scale.exp()) == pytest.approx(kept)
    assert bias.isfinite().all()
