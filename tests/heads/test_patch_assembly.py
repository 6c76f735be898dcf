"""Assembly: votes spread along bonds, and only along them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.headkit import registry
from detheads.headkit.octaves import OctaveHead
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


def _build(**options: object) -> PatchAssembly:
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
    for layer in (head.glues, head.confidence):
        assert layer is not None
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("box", "stride"),
    [([16.0, 8.0, 48.0, 72.0], 8), ([16.0, 8.0, 48.0, 73.0], 16), ([0.0, 0.0, 128.0, 40.0], 16), ([1, 1, 8, 6], 8)],
)
def test_every_cell_of_a_box_is_its_patch_at_the_level_where_it_is_four_to_eight_cells_long(
    box: list[float], stride: int
) -> None:
    head = _build()
    target = Targets(torch.tensor([box]), torch.tensor([2]))
    matches = head.match(head(random_features(SPEC, 1)), [target])
    x1, y1, x2, y2 = box
    centres = [
        (x, y)
        for y in torch.arange(stride / 2, 128, stride).tolist()
        for x in torch.arange(stride / 2, 128, stride).tolist()
        if x1 < x < x2 and y1 < y < y2
    ]
    assert [tuple(point) for point in head.points[matches.points].tolist()] == centres
    assert set(head.strides[matches.points].tolist()) == {stride}


def test_a_patch_of_two_objects_of_one_level_is_that_of_the_smaller() -> None:
    head = _build()
    target = Targets(torch.tensor([[0.0, 0.0, 128.0, 128.0], [32.0, 32.0, 112.0, 112.0]]), torch.tensor([2, 3]))
    matches = head.match(head(random_features(SPEC, 1)), [target])
    assert len(matches.points) == 8 * 8
    assert int((matches.objects == 1).sum()) == 5 * 5


def test_patches_at_the_edge_of_a_box_have_as_much_say_as_those_in_its_middle() -> None:
    head = _build()
    wanted = torch.tensor([[0.0, 0.0, 64.0, 64.0]]).expand(2, -1)
    found = torch.tensor([[0.0, 0.0, 32.0, 64.0], [0.0, 0.0, 64.0, 64.0]])
    assert float(head.box_loss(found, wanted, torch.tensor([0.01, 0.99]))) == pytest.approx(0.25)


def test_bonds_within_an_object_are_taught_1_and_those_across_its_border_0() -> None:
    head = _build()
    targets = [Targets(torch.tensor([[16.0, 16.0, 56.0, 56.0], [56.0, 16.0, 96.0, 56.0]]), torch.tensor([2, 2]))]
    output = head(random_features(SPEC, 1))
    bonds = output.extras["bonds"]
    for each in bonds:
        for logits in each:
            logits.detach().fill_(-30.0)
    right, down = (logits.detach() for logits in bonds[0])
    right[..., 2:7, 2:6] = right[..., 2:7, 7:11] = down[..., 2:6, 2:12] = 30.0  # five by five cells each
    assert float(head.loss(output, targets)["bond"].detach()) < 1e-6
    right[..., 4, 6] = 30.0  # one of 2 * (20 + 20) + 5 + 10 + 20 bonds joins the two objects
    assert float(head.loss(output, targets)["bond"].detach()) == pytest.approx(30 / 115, rel=1e-4)


def test_rounds_change_the_boxes_and_without_glue_they_are_the_votes() -> None:
    with torch.no_grad():
        raw, assembled = (_build(rounds=rounds) for rounds in (0, 4))
        assembled.load_state_dict(raw.state_dict(), strict=False)
        features = random_features(SPEC, 1)
        votes = raw(features).boxes
        assert not torch.allclose(assembled(features).boxes, votes, atol=1.0)
        assert assembled.glues is not None
        assembled.glues.weight.zero_()
        assembled.glues.bias.fill_(-math.inf)  # type: ignore[union-attr]
        torch.testing.assert_close(assembled(features).boxes, votes, rtol=1e-5, atol=1e-3)


def test_without_rounds_the_votes_are_those_of_plain_and_what_they_learn_is_not() -> None:
    torch.manual_seed(0)
    plain = registry.build("plain", SPEC, 5, {"width": 16, "tower_blocks": 1, "levels": 5})
    head = _build(rounds=0)
    assert head.state_dict().keys() == plain.state_dict().keys()
    found, wanted = (each(random_features(SPEC, 1)) for each in (head, plain))
    assert torch.equal(found.boxes, wanted.boxes)
    assert torch.equal(found.logits, wanted.logits)
    assert head.loss(found, [Targets(torch.tensor([[8.0, 8.0, 72.0, 72.0]]), torch.tensor([0]))]).keys() == {
        "classification",
        "box",
        "centerness",
    }


def test_full_bonds_are_a_blur_that_knows_no_borders() -> None:
    head = _build(bonds="full", rounds=3)
    assert head.glues is None
    with torch.no_grad():
        head.confidence.weight.zero_()  # type: ignore[union-attr]
        assembled = head(random_features(SPEC, 1)).boxes
        votes = OctaveHead.predict(head, head.levels(random_features(SPEC, 1))).boxes
        maps = votes[:, :256].transpose(1, 2).unflatten(2, (16, 16))  # of the finest level
        cross = torch.zeros(4, 1, 3, 3)
        cross[..., [0, 1, 1, 1, 2], [1, 0, 1, 2, 1]] = 0.2
        for _ in range(3):  # what would go beyond the border of the picture stays
            maps = F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), cross, groups=4)
        torch.testing.assert_close(assembled[:, :256], maps.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-2)
