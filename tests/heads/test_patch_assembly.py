"""Assembly: votes spread along bonds, and only along them."""

import math

import pytest
import torch
from torch import Tensor

from detheads.headkit import registry
from detheads.heads.patch_assembly import PatchAssembly, assemble, bond_logits
from detheads.targets.objects import Targets
from tests.heads.worlds import SPECS, random_features

SPEC = SPECS["vit-square"]
HEIGHT, WIDTH = 5, 7


def _votes(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    votes = 100 * torch.rand(2, 3, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    return votes, 0.05 + torch.rand(2, 1, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)


def _bonds(value: float) -> tuple[Tensor, Tensor]:
    full = torch.full((2, 1, HEIGHT, WIDTH), value, dtype=torch.float64)
    return full[..., :-1].clone(), full[..., :-1, :].clone()


def _build(**options: int) -> PatchAssembly:
    torch.manual_seed(0)
    head = registry.build("patch_assembly", SPEC, 5, {"width": 16, "tower_blocks": 1} | options)
    assert isinstance(head, PatchAssembly)
    return head


@pytest.mark.parametrize("rounds", [1, 6])
def test_without_glue_every_patch_keeps_its_vote(rounds: int) -> None:
    votes, confidence = _votes()
    torch.testing.assert_close(assemble(votes, confidence, *_bonds(0.0), rounds), votes)


def test_a_bonded_block_agrees_on_its_confidence_weighted_mean_and_others_do_not_hear_of_it() -> None:
    votes, confidence = _votes()
    right, down = _bonds(0.0)
    right[..., 1:4, 2:4] = 1.0  # rows 1-3, columns 2-4
    down[..., 1:3, 2:5] = 1.0
    inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    inside[1:4, 2:5] = True
    assembled = assemble(votes, confidence, right, down, 200)
    weights = confidence[..., inside]
    mean = (votes[..., inside] * weights).sum(dim=2) / weights.sum(dim=2)  # [B, C]
    torch.testing.assert_close(assembled[..., inside], mean[..., None].expand(-1, -1, 9))
    torch.testing.assert_close(assembled[..., ~inside], votes[..., ~inside])


def test_rounds_equal_a_walk_from_cell_to_cell() -> None:
    votes, confidence = _votes()
    generator = torch.Generator().manual_seed(5)
    right, down = (torch.rand(bonds.shape, generator=generator).double() for bonds in _bonds(1.0))
    cells = [(y, x) for y in range(HEIGHT) for x in range(WIDTH)]
    step = torch.eye(len(cells), dtype=torch.float64)
    for y, x in cells:
        for bonds, there in ((right, (y, x + 1)), (down, (y + 1, x))):
            if there in cells:
                a, b = cells.index((y, x)), cells.index(there)
                step[a, b] = step[b, a] = 0.2 * bonds[0, 0, y, x]
                step[a, a] -= step[a, b]
                step[b, b] -= step[a, b]
    weights = torch.linalg.matrix_power(step, 3) * confidence[0].flatten()  # [cells, cells]
    expected = votes[0].flatten(1) @ (weights / weights.sum(dim=1, keepdim=True)).T  # [C, cells]
    torch.testing.assert_close(assemble(votes, confidence, right, down, 3)[0].flatten(1), expected)


def test_a_bond_is_the_mean_of_the_two_glues_that_meet() -> None:
    glues = torch.zeros(1, 4, HEIGHT, WIDTH)
    glues[0, 2, 1, 3], glues[0, 0, 1, 4] = 3.0, -1.0  # right side of (1, 3), left side of (1, 4)
    glues[0, 3, 2, 5], glues[0, 1, 3, 5] = 5.0, 2.0  # bottom of (2, 5), top of (3, 5)
    right, down = bond_logits(glues)
    assert {tuple(cell): float(right[tuple(cell)]) for cell in right.nonzero().tolist()} == {(0, 0, 1, 3): 1.0}
    assert {tuple(cell): float(down[tuple(cell)]) for cell in down.nonzero().tolist()} == {(0, 0, 2, 5): 3.5}


def test_boxes_teach_glue_and_confidence_through_the_assembly() -> None:
    head = _build().train()
    target = Targets(torch.tensor([[20.0, 24.0, 90.0, 100.0]]), torch.tensor([2]))
    head.loss(head(random_features(SPEC, 1)), [target])["box"].backward()
    assert head.confidence is not None
    for layer in (head.glues, head.confidence):
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().max() > 0


def test_bonds_within_an_object_are_taught_1_and_those_across_its_border_0() -> None:
    head = _build()
    targets = [Targets(torch.tensor([[16.0, 16.0, 56.0, 56.0], [56.0, 16.0, 96.0, 56.0]]), torch.tensor([2, 2]))]
    output = head(random_features(SPEC, 1))
    right, down = (torch.full_like(output.extras[name], -30.0) for name in ("right", "down"))
    right[..., 2:7, 2:6] = right[..., 2:7, 7:11] = down[..., 2:6, 2:12] = 30.0  # five by five cells each
    output.extras.update(right=right, down=down)  # type: ignore[attr-defined]
    assert float(head.loss(output, targets)["bond"].detach()) < 1e-6
    right[..., 4, 6] = 30.0  # one of 2 * (20 + 20) + 5 + 10 + 20 bonds joins the two objects
    assert float(head.loss(output, targets)["bond"].detach()) == pytest.approx(30 / 115, rel=1e-4)


def test_rounds_change_the_boxes_and_zero_rounds_are_the_votes() -> None:
    with torch.no_grad():
        raw, assembled = (_build(rounds=rounds) for rounds in (0, 4))
        assembled.load_state_dict(raw.state_dict(), strict=False)
        features = random_features(SPEC, 1)
        votes = raw(features).boxes
        assert not torch.allclose(assembled(features).boxes, votes, atol=1.0)
        assembled.glues.weight.zero_()
        assembled.glues.bias.fill_(-math.inf)  # type: ignore[union-attr]
        torch.testing.assert_close(assembled(features).boxes, votes, rtol=1e-5, atol=1e-3)
