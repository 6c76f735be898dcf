"""Matching in a loss is pure, and done once."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from detheads.backbones.features import FeatureSpec
from detheads.headkit.contract import Head
from detheads.headkit.dense import PointHead
from tests.heads.worlds import no_objects, objects, random_features

ASSIGNMENTS = ("assign_atss_batch", "assign_fcos_batch", "assign_optimal_transport", "match_one_to_one", "heatmaps_of")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each assignment is asked for with the same arguments, wherever heads call it from."""
    counts: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            digest = hashlib.sha256()
            for argument in (*arguments, *options.values()):
                plain = argument.detach().numpy().tobytes() if isinstance(argument, Tensor) else repr(argument).encode()
                digest.update(plain)
            counts[f"{name} {digest.hexdigest()}"] += 1
            return function(*arguments, **options)

        return call

    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(("detheads.heads.", "detheads.headkit.")):
            for name in ASSIGNMENTS:
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return counts


def test_no_assignment_is_asked_for_twice_in_a_loss(head: Head, spec: FeatureSpec, asked: Counter[str]) -> None:
    head.train()
    targets = [objects(spec)]
    head.loss(head(random_features(spec, 1)), targets)
    assert asked
    assert set(asked.values()) == {1}, asked


def test_matching_changes_nothing(head: Head, spec: FeatureSpec) -> None:
    if not isinstance(head, PointHead):
        pytest.skip("is matched by functions, which hold nothing")
    head.train()
    with torch.no_grad():
        output = head(random_features(spec, 2))
        before = {name: value.clone() for name, value in head.state_dict().items()}
        first, second = (head.match(output, [objects(spec), no_objects()]) for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    for name, values in vars(first).items():
        assert torch.equal(values, getattr(second, name)), name
    assert len(first.points) > 0
    assert torch.equal(first.labels, objects(spec).labels[first.objects])
    assert torch.equal(first.boxes, objects(spec).boxes[first.objects])
