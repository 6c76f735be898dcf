"""What is particular to corner pairs: pooling, pairing, and what the embeddings learn."""

import itertools

import pytest
import torch

from detheads.headkit import registry
from detheads.headkit.contract import HeadOutput
from detheads.headkit.peaks import FLOOR
from detheads.heads.relational_corners import Corners, RelationalCorners, associative_loss, running_max
from detheads.targets.objects import Targets
from tests.heads.worlds import SPECS, random_features

SPEC = SPECS["vit-wide"]  # 80 x 208 pixels: 10 x 26 cells of 8 pixels
BOXES = torch.tensor([[20.0, 12.0, 60.0, 50.0], [100.0, 30.0, 180.0, 75.0]])
LABELS = torch.tensor([2, 2])


def _head(corners: int = 6, **options: object) -> RelationalCorners:
    torch.manual_seed(0)
    narrow = {"width": 16, "tower_blocks": 1, "corners": corners}
    head = registry.build("relational_corners", SPEC, 3, narrow | options).eval()
    assert isinstance(head, RelationalCorners)
    return head


def _maps(points: torch.Tensor, embeddings: list[float]) -> Corners:
    """The maps of an oracle that sees corners at ``points`` ``[M, 2]`` (input pixels)."""
    corners = Corners(torch.full((1, 3, 10, 26), -20.0), torch.zeros(1, 1, 10, 26), torch.zeros(1, 2, 10, 26))
    for (x, y), label, embedding in zip(points.tolist(), LABELS.tolist(), embeddings, strict=True):
        row, column = int(y // 8), int(x // 8)
        corners.heatmaps[0, label, row, column] = 20.0
        corners.embeddings[0, 0, row, column] = embedding
        corners.offsets[0, :, row, column] = torch.tensor([x / 8 - column, y / 8 - row])
    return corners


@pytest.mark.parametrize("size", [(5, 13), (1, 8), (16, 1), (7, 6)])
@pytest.mark.parametrize("dim", [2, 3])
def test_corner_pooling_is_the_running_maximum(size: tuple[int, int], dim: int) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(running_max(x, dim, ahead=False), x.cummax(dim).values)
    assert torch.equal(running_max(x, dim, ahead=True), x.flip(dim).cummax(dim).values.flip(dim))


def test_a_top_left_corner_hears_what_lies_right_and_below_and_a_bottom_right_one_the_rest() -> None:
    head, grid = _head(), torch.zeros(1, 16, 9, 9)
    changed = grid.clone()
    changed[:, ::2, 4, 4] = 9.0
    heard = {}
    for kind, branch in (("start", head.top_left), ("end", head.bottom_right)):
        pooled: list[torch.Tensor] = []
        # Pooling alone: a normalisation would carry the change everywhere.
        for name in ("along_row", "along_column", "merge"):
            setattr(branch, name, torch.nn.Identity())
        branch.merge.register_forward_pre_hook(lambda module, inputs, pooled=pooled: pooled.append(inputs[0]))
        branch(grid)
        branch(changed)
        heard[kind] = (pooled[0] != pooled[1]).any(dim=1)[0].nonzero().tolist()
    assert sorted(heard["start"]) == sorted([[4, x] for x in range(5)] + [[y, 4] for y in range(4)])
    assert sorted(heard["end"]) == sorted([[4, x] for x in range(4, 9)] + [[y, 4] for y in range(5, 9)])


@pytest.mark.parametrize("embeddings", [[0.0, 1.0], [1.0, 0.0]])
def test_corners_are_paired_by_their_embeddings(embeddings: list[float]) -> None:
    """Both start-end combinations are geometrically possible for the first object's start."""
    starts, ends = _maps(BOXES[:, :2], [0.0, 1.0]), _maps(BOXES[:, 2:], embeddings)
    boxes, logits = _head().pair(starts, ends)
    order = logits[0, :, 2].argsort(descending=True)
    best = boxes[0, order[:2]]
    if embeddings == [0.0, 1.0]:
        torch.testing.assert_close(best[best[:, 0].argsort()], BOXES)
        assert logits[0, order[:2], 2].tolist() == pytest.approx([20.0, 20.0])
        assert float(logits[0, order[2], 2]) == pytest.approx(20.0 - 8.0)
    else:  # the first start goes with the second end; the second start has no end behind it that is its own
        torch.testing.assert_close(best[0], torch.cat((BOXES[0, :2], BOXES[1, 2:])))


def test_a_pair_that_ends_before_it_starts_is_a_flat_box_without_a_chance() -> None:
    torch.manual_seed(1)
    starts, ends = (
        Corners(torch.randn(2, 3, 10, 26), torch.zeros(2, 1, 10, 26), torch.rand(2, 2, 10, 26)) for _ in range(2)
    )
    head = _head(corners=20)
    boxes, logits = head.pair(starts, ends)
    assert boxes.shape == (2, 400, 4)
    low, high = head.best(starts)[0], head.best(ends)[0]
    for image, first, second in itertools.product(range(2), range(20), range(20)):
        possible = bool((high[image, second] > low[image, first]).all())
        row = first * 20 + second
        assert bool((logits[image, row] > FLOOR).any()) == possible
        assert torch.equal(boxes[image, row, :2], low[image, first])
        assert torch.equal(boxes[image, row, 2:], high[image, second].maximum(low[image, first]))


def test_a_grid_with_fewer_cells_than_corners_pairs_them_all() -> None:
    with torch.no_grad():
        assert _head(corners=1000)(random_features(SPEC, 1)).boxes.shape == (1, 260 * 260, 4)


def test_associative_loss_pulls_corners_and_pushes_objects() -> None:
    first, second = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    middles = [(a + b) / 2 for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    pull = sum((a - m) ** 2 + (b - m) ** 2 for a, b, m in zip(first.tolist(), second.tolist(), middles, strict=True))
    push = sum(max(0.0, 1.0 - abs(a - b)) for a, b in itertools.permutations(middles, 2))
    together = torch.zeros(5, dtype=torch.int64)
    alone = float(associative_loss(first, second, together))
    assert alone == pytest.approx(pull / 5 + push / 20)
    for count in (0, 1):
        assert float(associative_loss(first[:count], first[:count], together[:count])) == 0.0
    # A second image of three objects adds what it costs alone, whatever the first one holds.
    three = float(associative_loss(first[:3], second[:3], together[:3]))
    both = associative_loss(
        torch.cat((first, first[:3])), torch.cat((second, second[:3])), torch.tensor([0] * 5 + [4] * 3)
    )
    assert float(both) == pytest.approx(alone + three)


def test_the_right_maps_cost_nothing() -> None:
    head, target = _head(), Targets(BOXES, LABELS)

    def loss_of(starts: Corners, ends: Corners) -> float:
        output = HeadOutput(*head.pair(starts, ends), None, {"starts": starts, "ends": ends})
        return float(torch.stack(list(head.loss(output, [target]).values())).sum())

    starts, ends = _maps(BOXES[:, :2], [0.0, 1.0]), _maps(BOXES[:, 2:], [0.0, 1.0])
    assert loss_of(starts, ends) < 1e-5
    assert loss_of(starts, _maps(BOXES[:, 2:], [1.0, 0.0])) > 0.1
    assert loss_of(_maps(BOXES[:, :2] + 3, [0.0, 1.0]), ends) > 0.01
    assert loss_of(ends, starts) > 5


def test_without_corner_pooling_the_same_weights_see_what_lies_at_the_corner() -> None:
    head, blind = _head(), _head(corner_pooling=False)
    assert all(torch.equal(value, blind.state_dict()[name]) for name, value in head.state_dict().items())
    pooled: list[torch.Tensor] = []
    blind.top_left.merge.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    grid = torch.randn(1, 16, 9, 9)
    blind.top_left(grid)
    assert torch.equal(pooled[0], blind.top_left.along_row(grid) + blind.top_left.along_column(grid))


def test_without_relations_pairs_differ_by_their_scores_alone() -> None:
    """As if all embeddings were one: the second object's end is as good for the first one's start as its own."""
    head, target = _head(relations=False), Targets(BOXES, LABELS)
    related = _head().load_state_dict(head.state_dict(), strict=False)
    assert {name.partition(".")[2] for name in related.missing_keys} == {"embeddings.weight", "embeddings.bias"}
    with torch.no_grad():
        output = head(random_features(SPEC, 1))
    starts, ends = output.extras["starts"], output.extras["ends"]
    first, second = head.best(starts)[1], head.best(ends)[1]  # [1, C, K]
    possible = (output.boxes[..., 2:] > output.boxes[..., :2]).all(dim=2)  # [1, C * C]
    wanted = ((first[:, :, None] + second[:, None]) / 2).flatten(1, 2).clamp(min=FLOOR)
    torch.testing.assert_close(output.logits[possible], wanted[possible])
    assert set(head.loss(output, [target])) == {"heatmap", "offset"}
