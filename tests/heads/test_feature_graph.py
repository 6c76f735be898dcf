"""What is particular to the feature graph: its edges against brute force, and messages that follow them alone."""

import pytest
import torch
import torch.nn.functional as F

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.headkit import registry
from detheads.heads.feature_graph import EdgeConvolution, FeatureGraph, spatial_neighbours

SPEC = FeatureSpec((FeatureLayer("last", 24, 16),), ("last",), 48, 80)
NODES = 15


def _build(**options: object) -> FeatureGraph:
    torch.manual_seed(0)
    head = registry.build("feature_graph", SPEC, 3, {"width": 16, "embedding": 6} | options).eval()
    assert isinstance(head, FeatureGraph)
    return head


@pytest.mark.parametrize("neighbours", [0, 1, 4, 100])
def test_edges_are_the_spatial_and_the_nearest_neighbours_in_angle(neighbours: int) -> None:
    embedded = torch.randn(2, NODES, 6)
    edges, similarity = _build(neighbours=neighbours).graph(embedded)
    for image in range(2):
        for node in range(NODES):
            cosine = [float(F.cosine_similarity(embedded[image, node], other, dim=0)) for other in embedded[image]]
            alike = sorted((n for n in range(NODES) if n != node), key=lambda n: -cosine[n])[:neighbours]
            row, column = divmod(node, 5)
            near = {5 * y + x for y in range(3) for x in range(5) if max(abs(y - row), abs(x - column)) == 1}
            ends = edges[image, node].tolist()
            assert set(ends[:8]) == near
            assert set(ends[8:]) == set(alike)
            assert len(ends) == 8 + len(alike)
            assert similarity[image, node].tolist() == pytest.approx([cosine[n] for n in ends], abs=1e-5)


@pytest.mark.parametrize(("height", "width", "cells"), [(16, 16, 1), (16, 64, 4), (33, 16, 3)])
def test_grids_of_one_row_or_column_have_neighbours_within_them(height: int, width: int, cells: int) -> None:
    near = spatial_neighbours(height, width, 16)
    assert near.shape == (cells, 8)
    assert ((near - torch.arange(cells)[:, None]).abs() <= 1).all()
    assert ((near >= 0) & (near < cells)).all()


def _random_graph() -> tuple[EdgeConvolution, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    convolve = EdgeConvolution(64)  # so many channels that each edge is the largest in some
    torch.nn.init.normal_(convolve.alike.weight)
    edges = torch.stack([torch.randperm(NODES)[:3] for _ in range(2 * NODES)]).view(2, NODES, 3)
    return convolve, torch.randn(2, NODES, 64), edges, torch.rand(2, NODES, 3)


def test_a_message_is_the_maximum_of_an_edge_function_of_difference_and_similarity() -> None:
    convolve, nodes, edges, similarity = _random_graph()
    with torch.no_grad():
        found, normed = convolve(nodes, edges, similarity), convolve.norm(nodes)
        for image in range(2):
            for node in range(NODES):
                messages = [
                    F.relu(convolve.ends(normed[image, end] - normed[image, node]) + convolve.alike(alike[None]))
                    for end, alike in zip(edges[image, node], similarity[image, node], strict=True)
                ]
                expected = nodes[image, node] + convolve.out(torch.stack(messages).amax(dim=0))
                torch.testing.assert_close(found[image, node], expected)


def test_a_node_hears_the_ends_of_its_edges_and_nobody_else() -> None:
    convolve, nodes, edges, similarity = _random_graph()
    nodes.requires_grad_()
    for node in (0, 7):
        (gradient,) = torch.autograd.grad(convolve(nodes, edges, similarity)[0, node].square().sum(), nodes)
        heard = set(gradient[0].abs().sum(dim=1).nonzero().flatten().tolist())
        assert heard == {node, *edges[0, node].tolist()}
        assert not gradient[1].any()


def test_the_order_of_the_nodes_does_not_matter_to_the_messages() -> None:
    convolve, nodes, edges, similarity = _random_graph()
    order = torch.randperm(NODES)
    place = order.argsort()
    with torch.no_grad():
        shuffled = convolve(nodes[:, order], place[edges[:, order]], similarity[:, order])
        torch.testing.assert_close(shuffled, convolve(nodes, edges, similarity)[:, order])
