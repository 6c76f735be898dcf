"""What is particular to the feature graph: its edges against brute force, and messages that follow them alone."""

import pytest
import torch
import torch.nn.functional as F

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.headkit import registry
from detheads.heads.feature_graph import STANDING_OUT, EdgeConvolution, FeatureGraph, spatial_neighbours
from detheads.targets.objects import Targets

SPEC = FeatureSpec((FeatureLayer("last", 24, 16),), ("last",), 48, 80)
NODES = 15


def _build(**options: object) -> FeatureGraph:
    torch.manual_seed(0)
    head = registry.build("feature_graph", SPEC, 3, {"width": 16, "embedding": 6} | options).eval()
    assert isinstance(head, FeatureGraph)
    return head


def test_near_edges_go_to_the_eight_cells_around() -> None:
    for node, ends in enumerate(spatial_neighbours(SPEC.height, SPEC.width, 16).tolist()):
        row, column = divmod(node, 5)
        around = {5 * y + x for y in range(3) for x in range(5) if max(abs(y - row), abs(x - column)) == 1}
        assert set(ends) == around


@pytest.mark.parametrize("neighbours", [1, 4, 100])
def test_those_alike_are_the_nearest_in_angle_weighted_by_their_lead_over_the_next(neighbours: int) -> None:
    embedded = torch.randn(2, NODES, 6)
    edges, weights = _build(neighbours=neighbours).alike(embedded)
    for image in range(2):
        for node in range(NODES):
            cosine = [float(F.cosine_similarity(embedded[image, node], other, dim=0)) for other in embedded[image]]
            best = sorted((n for n in range(NODES) if n != node), key=lambda n: -cosine[n])[: neighbours + 1]
            lead = {n: cosine[n] - cosine[best[-1]] for n in best}
            total = sum(lead.values()) + STANDING_OUT
            found = dict(zip(edges[image, node].tolist(), weights[image, node].tolist(), strict=True))
            assert found.keys() == lead.keys()
            assert found == pytest.approx({n: value / total for n, value in lead.items()}, abs=1e-5)


def test_what_is_heard_does_not_jump_where_the_choice_of_neighbours_does() -> None:
    """The last of those chosen and the first of the others change places by a hair's breadth."""
    angles = torch.arange(NODES, dtype=torch.float64) * 0.2
    chosen, heard = [], []
    for shift in (-1e-5, 1e-5):
        turned = angles.clone()
        turned[6] = angles[5] + shift
        embedded = torch.stack((turned.cos(), turned.sin()), dim=1)[None]
        edges, weights = _build(neighbours=4).alike(embedded)
        chosen.append(set(edges[0, 0].tolist()))
        heard.append(torch.zeros(NODES, dtype=torch.float64).scatter(0, edges[0, 0], weights[0, 0]))
    assert chosen == [{1, 2, 3, 4, 6}, {1, 2, 3, 4, 5}]
    torch.testing.assert_close(heard[0], heard[1], rtol=0, atol=1e-4)
    assert heard[0].max() > 0.2


def test_where_no_node_stands_out_nobody_is_heard() -> None:
    _, weights = _build(neighbours=4).alike(torch.zeros(1, NODES, 6))
    assert not weights.any()


def test_boxes_teach_the_space_in_which_neighbours_are_found() -> None:
    head = _build().train()
    features = {"last": torch.randn(1, 24, 3, 5)}
    head.loss(head(features), [Targets(torch.tensor([[4.0, 4.0, 44.0, 40.0]]), torch.tensor([1]))])["box"].backward()
    assert head.embed is not None
    assert head.embed.weight.grad is not None
    assert head.embed.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("height", "width", "cells"), [(16, 16, 1), (16, 64, 4), (33, 16, 3)])
def test_grids_of_one_row_or_column_have_neighbours_within_them(height: int, width: int, cells: int) -> None:
    near = spatial_neighbours(height, width, 16)
    assert near.shape == (cells, 8)
    assert ((near - torch.arange(cells)[:, None]).abs() <= 1).all()
    assert ((near >= 0) & (near < cells)).all()


Graph = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _random_graph() -> tuple[EdgeConvolution, torch.Tensor, Graph]:
    """A convolution, nodes ``[2, N, 64]``, and near edges, those of each image and their weights."""
    torch.manual_seed(1)
    convolve = EdgeConvolution(64, alike=True)  # so many channels that each edge is the largest in some
    torch.nn.init.normal_(convolve.alike_bias)  # type: ignore[arg-type]
    near = torch.stack([torch.randperm(NODES)[:3] for _ in range(NODES)])
    alike = torch.stack([torch.randperm(NODES)[:2] for _ in range(2 * NODES)]).view(2, NODES, 2)
    return convolve, torch.randn(2, NODES, 64), (near, alike, 0.4 * torch.rand(2, NODES, 2))


def test_messages_are_the_maximum_of_near_edges_beside_the_mean_of_those_alike() -> None:
    convolve, nodes, (near, alike, weights) = _random_graph()
    with torch.no_grad():
        found, normed = convolve(nodes, near, (alike, weights)), convolve.norm(nodes)
        for image in range(2):
            for node in range(NODES):
                differences = normed[image] - normed[image, node]
                edges = [F.relu(convolve.ends(differences[end])) for end in near[node]]
                mean = sum(
                    w * differences[end] for w, end in zip(weights[image, node], alike[image, node], strict=True)
                )
                heard = F.relu(F.linear(mean, convolve.ends.weight) + convolve.alike_bias)  # type: ignore[arg-type]
                expected = nodes[image, node] + convolve.out(torch.cat((torch.stack(edges).amax(dim=0), heard)))
                torch.testing.assert_close(found[image, node], expected, rtol=1e-4, atol=1e-5)


def test_a_node_hears_the_ends_of_its_edges_and_nobody_else() -> None:
    convolve, nodes, (near, alike, weights) = _random_graph()
    nodes.requires_grad_()
    for node in (0, 7):
        said = convolve(nodes, near, (alike, weights))[0, node].square().sum()
        (gradient,) = torch.autograd.grad(said, nodes)
        heard = set(gradient[0].abs().sum(dim=1).nonzero().flatten().tolist())
        assert heard == {node, *near[node].tolist(), *alike[0, node].tolist()}
        assert not gradient[1].any()


def test_the_order_of_the_nodes_does_not_matter_to_the_messages() -> None:
    convolve, nodes, (near, alike, weights) = _random_graph()
    order = torch.randperm(NODES)
    place = order.argsort()
    with torch.no_grad():
        shuffled = convolve(nodes[:, order], place[near[order]], (place[alike[:, order]], weights[:, order]))
        torch.testing.assert_close(shuffled, convolve(nodes, near, (alike, weights))[:, order])
