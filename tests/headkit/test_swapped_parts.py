"""The page on other labels and losses: its example is a head that keeps the contract, and nothing is matched twice."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detheads.headkit import registry
from detheads.headkit.checks import CHECKS, Case, cases, fault_of, objects, random_features, total_loss
from detheads.headkit.contract import HeadOutput
from detheads.headkit.dense import Matches
from detheads.headkit.head_file import load_head_file
from detheads.heads.slim_fcos import SlimFCOS
from detheads.targets.objects import Targets

PAGE = Path(__file__).resolve().parents[2] / "docs" / "assigner-and-loss.md"
NARROW = {"width": 8, "tower_blocks": 1}


@pytest.fixture
def case(tmp_path: Path, own_heads: None) -> Case:
    (code,) = re.findall(r"```python\n# nearest.py\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    path = tmp_path / "nearest.py"
    path.write_text(code, encoding="utf-8")
    return next(cases(load_head_file(path), NARROW))


def test_the_example_keeps_the_contract(case: Case) -> None:
    assert {promise: fault for promise, check in CHECKS.items() if (fault := fault_of(check, case))} == {}


def test_the_nearest_points_inside_a_box_learn_it(case: Case) -> None:
    head = case.head()
    assert isinstance(head, SlimFCOS)
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    positive = head.assign(box).positive
    assert 1 <= len(positive) <= 5
    points = head.points[positive]
    assert ((points > 8) & (points < 40)).all()


def test_a_box_loss_alone_is_swapped_and_points_are_matched_once() -> None:
    matched: list[int] = []

    class Constant(SlimFCOS):
        def match(self, output: HeadOutput, targets: Sequence[Targets]) -> Matches:
            matched.append(len(targets))
            return super().match(output, targets)

        def box_loss(self, boxes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
            assert boxes.shape == targets.shape == (len(weights), 4)
            return boxes.sum() * 0 + 7.0

    entry = registry.entry("slim_fcos")
    spec = next(cases(entry, NARROW)).spec
    features, targets = random_features(spec, 2), [objects(spec, 3), objects(spec, 3, 0)]
    config = registry.make_config(entry, NARROW)
    heads = []
    for kind in (SlimFCOS, Constant):
        torch.manual_seed(0)
        heads.append(kind(spec, 3, config))
    usual, swapped = (head.loss(head(features), targets) for head in heads)
    assert matched == [2]
    assert swapped["box"] == 7.0
    assert all(torch.equal(usual[name], swapped[name]) for name in usual if name != "box")
    assert total_loss(heads[1], features, targets) > 7.0
