"""Feature graph: patches are the nodes of a graph, and messages along its edges find the objects.

Hypothesis: what belongs to one object is near in the picture or alike in the encoder's features. A graph with edges to
the eight spatial neighbours and to the most similar patches, wherever they are, joins what belongs together; messages
that compare the two ends of an edge tell a patch where its object ends and what others of its kind look like.

The graph is built once on the stride-s map, in a learned space of few dimensions; messages are the edge convolution of
DGCNN with the similarity of the ends as a further input: ``max_j relu(A (x_j - x_i) + a s_ij + b)``. A dense head
follows.

Sources: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds"; Han et al. 2022, "Vision GNN: An Image is
Worth Graph of Nodes"; phanerozoic/detection-heads, ``feature_graph``. Refuted if the same head without similar
neighbours (``neighbours=0``) on the same cache does as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import FinerLevel, conv_norm, join_main, join_stride, joined_channels
from detheads.headkit.controls import Control
from detheads.headkit.dense import PyramidConfig, PyramidHead
from detheads.headkit.octaves import octave_levels, octave_strides
from detheads.headkit.registry import register
from detheads.ops.decisions import decide
from detheads.ops.points import grid_points

LEVELS = 4


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``feature_graph``.

    Attributes:
        neighbours: edges of a node to similar ones, besides its spatial neighbours.
        embedding: dimensions of the space in which nodes are compared.
        rounds: of messages; 0 leaves a plain dense head.
    """

    neighbours: NonNegativeInt = 8
    embedding: PositiveInt = 32
    rounds: NonNegativeInt = 2


@register(Config)
class FeatureGraph(PyramidHead):
    """Messages between patches that are near or alike, ahead of a dense head."""

    controls = MappingProxyType(
        {"alike": Control("Patches that are alike tell each other what near ones cannot.", {"neighbours": 0})}
    )
    near: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        width, stride = config.width, join_stride(spec)
        super().__init__(spec, num_classes, octave_strides(spec, LEVELS), config, config.assigner)
        self.neighbours = config.neighbours
        self.project = conv_norm(joined_channels(spec), width, 1)
        self.embed = nn.Conv2d(width, config.embedding, 1)
        self.rounds = nn.ModuleList(EdgeConvolution(width) for _ in range(config.rounds))
        self.finer = FinerLevel(spec, width)
        self.register_buffer("near", spatial_neighbours(spec.height, spec.width, stride), persistent=False)  # [N, 8]

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Four maps ``[B, width, H, W]``, strides s/2 to 4s."""
        x = self.project(join_main(features, self.spec))
        edges, similarity = self.graph(self.embed(x).flatten(2).transpose(1, 2).float())
        nodes = x.flatten(2).transpose(1, 2)  # [B, N, C]
        for convolve in self.rounds:
            nodes = convolve(nodes, edges, similarity)
        x = nodes.transpose(1, 2).unflatten(2, x.shape[-2:])
        return octave_levels(x, self.finer, features, LEVELS)

    def graph(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Edges of the nodes embedded at ``[B, N, D]``: the other ends and their cosine similarity, ``[B, N, E]`` each.

        A node's edges go to its spatial neighbours, then to the other nodes most like it.
        """
        directions = F.normalize(embedded, dim=2)
        cosine = directions @ directions.transpose(1, 2)  # [B, N, N]
        nodes = cosine.shape[2]
        itself = torch.eye(nodes, dtype=torch.bool, device=cosine.device)
        others = cosine.detach().masked_fill(itself, -torch.inf)
        # torch.topk, as sorting all pairs takes longer than the rest of the head; the order of edges does not matter.
        alike = decide(others, lambda others: others.topk(min(self.neighbours, nodes - 1), dim=2).indices, dim=2)
        edges = torch.cat((self.near.expand(cosine.shape[0], -1, -1), alike), dim=2)  # [B, N, E]
        return edges, cosine.gather(2, edges)


class EdgeConvolution(nn.Module):
    """One round of messages: each node adds what the largest of its edges say, channel by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ends = nn.Linear(width, width)
        self.alike = nn.Linear(1, width, bias=False)
        nn.init.zeros_(self.alike.weight)
        self.out = nn.Linear(width, width)

    def forward(self, nodes: Tensor, edges: Tensor, similarity: Tensor) -> Tensor:
        """New nodes ``[B, N, C]``; ``edges`` ``[B, N, E]`` name the other ends, of that ``similarity``."""
        sent = F.linear(self.norm(nodes), self.ends.weight)  # [B, N, C]
        there = edges.flatten(1).unsqueeze(2).expand(-1, -1, sent.shape[2])  # [B, N * E, C]
        arriving = sent.gather(1, there).unflatten(1, edges.shape[1:]) + self.alike(similarity.unsqueeze(3))
        # What is the same on all edges of a node may wait until after the maximum.
        message = F.relu(arriving.amax(dim=2) - sent + self.ends.bias)  # [B, N, C]
        step: Tensor = self.out(message)
        return nodes + step


def spatial_neighbours(height: int, width: int, stride: int) -> Tensor:
    """The eight neighbours ``[N, 8]`` int64 of the cells of a grid over the input, row by row.

    Beyond the border is the mirrored cell, a neighbour too (on a grid of one row or column, the cell itself).
    """
    points = grid_points(height, width, stride)
    rows, columns = len(points[:, 1].unique()), len(points[:, 0].unique())
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    near = [_mirrored(y + down, rows) * columns + _mirrored(x + right, columns) for down, right in steps]
    return torch.stack(near, dim=2).flatten(0, 1)


def _mirrored(index: Tensor, count: int) -> Tensor:
    index = index.abs()
    return torch.where(index < count, index, 2 * count - 2 - index).clamp(min=0)
