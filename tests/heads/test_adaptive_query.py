"""What is particular to the adaptive queries: boxes on a grid, and windows that follow boxes and contents."""

import pytest
import torch
from torch.distributions import Normal

from detheads.headkit import registry
from detheads.heads.adaptive_query import DecoderLayer, reference_boxes
from tests.heads.worlds import SPECS

CELL = torch.tensor([0.1, 0.2])
COLUMNS, ROWS = (torch.arange(10) + 0.5) / 10, (torch.arange(5) + 0.5) / 5


def _layer(heads: int = 2) -> DecoderLayer:
    torch.manual_seed(0)
    layer = DecoderLayer(16 * heads, CELL)
    with torch.no_grad():
        layer.window.weight.zero_()
    return layer


def test_windows_are_gaussians_placed_and_sized_relative_to_the_box() -> None:
    layer, box = _layer(heads=1), torch.tensor([0.4, 0.6, 0.3, 0.5])
    with torch.no_grad():
        layer.window.bias.copy_(torch.tensor([0.7, -0.2, 0.5, -1.0]))
        window = layer.log_window(torch.zeros(1, 1, 16), box.view(1, 1, 4), COLUMNS, ROWS)
    shift, log_sharpness = torch.tensor([0.7, -0.2]).tanh(), torch.tensor([0.5, -1.0])
    gaussian = Normal(box[:2] + shift * box[2:] / 2, box[2:] / 2 / log_sharpness.exp() + CELL / 2)
    points = torch.stack(torch.meshgrid(COLUMNS, ROWS, indexing="xy"), dim=2).view(-1, 2)
    expected = gaussian.log_prob(points).sum(dim=1)
    torch.testing.assert_close((window[0, 0, 0]).softmax(dim=0), expected.softmax(dim=0))


@pytest.mark.parametrize("heads", [2, 4, 8])
def test_the_windows_of_a_query_start_in_a_circle_within_its_box(heads: int) -> None:
    layer, box = _layer(heads), torch.tensor([[[0.5, 0.5, 0.4, 0.4]]])
    with torch.no_grad():
        windows = layer.log_window(torch.zeros(1, 1, 16 * heads), box, COLUMNS, COLUMNS)[0, :, 0]
    points = torch.stack(torch.meshgrid(COLUMNS, COLUMNS, indexing="xy"), dim=2).view(-1, 2)
    places = windows.softmax(dim=1) @ points - 0.5  # [heads, 2], from the centre of the box
    torch.testing.assert_close(places.mean(dim=0), torch.zeros(2), rtol=0, atol=0.01)
    assert 0.05 < places.norm(dim=1).min() < places.norm(dim=1).max() < 0.15
    assert torch.pdist(places).min() > 0.03


def test_the_content_of_a_query_moves_its_windows() -> None:
    torch.manual_seed(0)
    layer, boxes = DecoderLayer(32, CELL), torch.tensor([[[0.4, 0.6, 0.3, 0.5]]]).expand(1, 2, 4)
    windows = layer.log_window(torch.randn(1, 2, 32), boxes, COLUMNS, ROWS)
    assert not torch.allclose(windows[:, :, 0], windows[:, :, 1])


def test_a_query_reads_nothing_beyond_its_window() -> None:
    """Not even by way of the other query: they heard each other before they read."""
    layer, values = _layer(), torch.randn(1, 50, 32)
    with torch.no_grad():
        layer.window.bias.view(2, 4)[:, 2:] = 2.0  # as sharp as can be
    boxes, contents = torch.tensor([[[0.15, 0.3, 0.02, 0.02], [0.85, 0.7, 0.02, 0.02]]]), torch.randn(1, 2, 32)
    changed = values.clone()
    changed[:, 38] += 1.0  # the patch at (0.85, 0.7)

    before, after = (layer(contents, boxes, v, v, COLUMNS, ROWS) for v in (values, changed))
    torch.testing.assert_close(after[:, 0], before[:, 0], rtol=0, atol=1e-6)
    assert (after[:, 1] - before[:, 1]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("count", "aspect"), [(100, 1.0), (25, 1.0), (7, 2.5), (300, 0.4), (1, 1.0), (13, 9.0), (11, 1.0)]
)
def test_reference_boxes_are_apart_and_cover_the_image(count: int, aspect: float) -> None:
    boxes = reference_boxes(count, aspect)
    assert boxes.shape == (count, 4)
    assert len(boxes[:, :2].unique(dim=0)) == count
    side = torch.linspace(0.05, 0.95, 19)
    offsets = (torch.cartesian_prod(side, side)[:, None] - boxes[:, :2]).abs()  # [P, count, 2]
    assert (offsets <= boxes[:, 2:] / 2 + 1e-6).all(dim=2).any(dim=1).all()
    assert boxes[:, 2:].prod(dim=1).max() <= max(0.95**2 / min(count, 2), 4.8 / count)


def test_without_windows_a_query_reads_by_attention_alone() -> None:
    """As through windows so wide that they are everywhere the same."""
    torch.manual_seed(0)
    layer, blind = DecoderLayer(32, CELL), DecoderLayer(32, CELL, windows=False)
    absent = blind.load_state_dict(layer.state_dict(), strict=False)
    assert set(absent.unexpected_keys) == {"window.weight", "window.bias"} and not absent.missing_keys
    contents, values = torch.randn(1, 2, 32), torch.randn(1, 50, 32)
    boxes = torch.tensor([[[0.5, 0.5, 1e4, 1e4], [0.4, 0.6, 1e4, 1e4]]])
    with torch.no_grad():
        layer.window.weight.zero_()
        layer.window.bias.zero_()
        placed = [each(contents, boxes, values, values, COLUMNS, ROWS) for each in (layer, blind)]
    torch.testing.assert_close(placed[1], placed[0], rtol=0, atol=1e-5)


def test_queries_may_start_from_the_whole_image() -> None:
    spec, options = SPECS["vit-square"], {"width": 16, "queries": 9, "layers": 1}
    torch.manual_seed(0)
    grid = registry.build("adaptive_query", spec, 3, options)
    torch.manual_seed(0)
    whole = registry.build("adaptive_query", spec, 3, options | {"start": "whole"})
    weights = grid.state_dict()
    assert [name for name, value in whole.state_dict().items() if not torch.equal(value, weights[name])] == [
        "references"
    ]
    assert torch.allclose(whole.references.sigmoid(), torch.tensor([0.5, 0.5, 0.95, 0.95]))
