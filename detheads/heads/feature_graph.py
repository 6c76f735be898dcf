"""Feature graph: patches are the nodes of a graph, and messages along its edges find the objects.

Hypothesis: what belongs to one object is near in the picture or alike in the encoder's features. A graph with edges to
the eight spatial neighbours and to the most similar patches, wherever they are, joins what belongs together; messages
that compare the two ends of an edge tell a patch where its object ends and what others of its kind look like.

The graph is built once on the stride-s map, in a learned space of few dimensions. Near neighbours send the edge
convolution of DGCNN, ``max_j relu(A (x_j - x_i) + b)``. Of those that are alike a node hears the mean,
``relu(A sum_j p_ij (x_j - x_i) + c)``, with the weights of adaptive neighbours: ``p_ij`` is proportional to how much
more like ``i`` the node ``j`` is than the best that is no neighbour. A node enters and leaves the neighbourhood with
weight 0, so the messages are a continuous function of the features although the choice of neighbours is none, and what
is learned from the boxes reaches, through the weights, the space in which neighbours are found. A dense head follows.

Sources: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds"; Nie, Wang, Huang 2014, "Clustering and
Projected Clustering with Adaptive Neighbors" (the weights); Ploetz, Roth 2018, "Neural Nearest Neighbors Networks"
(gradients through neighbours); Han et al. 2022, "Vision GNN: An Image is Worth Graph of Nodes";
phanerozoic/detection-heads, ``feature_graph``. Refuted if the same head without similar neighbours (``neighbours=0``)
or without a graph (``rounds=0``) does as well: ``detheads arena run --heads feature_graph --with-controls``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import join_stride
from detheads.headkit.controls import Control
from detheads.headkit.dense import PyramidConfig
from detheads.headkit.octaves import OctaveHead, octave_levels
from detheads.headkit.registry import register
from detheads.ops.decisions import decide
from detheads.ops.points import grid_points

LEVELS = 4

STANDING_OUT = 0.01
"""How much of a neighbourhood's total lead in cosine counts as none: where all nodes are about equally alike, nobody is
heard, and rounding decides nothing."""


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
class FeatureGraph(OctaveHead):
    """Messages between patches that are near or alike, ahead of a dense head."""

    controls = MappingProxyType(
        {
            "alike": Control("Patches that are alike tell each other what near ones cannot.", {"neighbours": 0}),
            "graph": Control("Messages between patches find objects that towers alone do not.", {"rounds": 0}),
        }
    )
    near: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec, num_classes, LEVELS, config, config.assigner)
        self.neighbours = config.neighbours if config.rounds else 0
        self.embed = nn.Conv2d(config.width, config.embedding, 1) if self.neighbours else None
        self.rounds = nn.ModuleList(EdgeConvolution(config.width, self.neighbours > 0) for _ in range(config.rounds))
        near = spatial_neighbours(spec.height, spec.width, join_stride(spec))  # [N, 8]
        self.register_buffer("near", near, persistent=False)

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Four maps ``[B, width, H, W]``, strides s/2 to 4s."""
        x = self.octaves.joined(features)
        return octave_levels(self.messages(x), self.octaves.finer, features, LEVELS)

    def messages(self, x: Tensor) -> Tensor:
        """The map ``[B, width, H, W]`` of stride s after all rounds."""
        alike = None if self.embed is None else self.alike(self.embed(x).flatten(2).transpose(1, 2).float())
        nodes = x.flatten(2).transpose(1, 2)  # [B, N, C]
        for convolve in self.rounds:
            nodes = convolve(nodes, self.near, alike)
        return nodes.transpose(1, 2).unflatten(2, x.shape[-2:])

    def alike(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """The nodes most like each of those embedded at ``[B, N, D]``, and how much each is heard: ``[B, N, E]`` both.

        The weights of a node sum to 1 at most, and that of the least alike is 0.
        """
        directions = F.normalize(embedded, dim=2)
        cosine = directions @ directions.transpose(1, 2)  # [B, N, N]
        nodes = cosine.shape[2]
        itself = torch.eye(nodes, dtype=torch.bool, device=cosine.device)
        others = cosine.detach().masked_fill(itself, -torch.inf)
        count = min(self.neighbours + 1, nodes - 1)
        # torch.topk, as sorting all pairs takes longer than the rest of the head; the order of edges does not matter.
        edges = decide(others, lambda others: others.topk(count, dim=2).indices, dim=2)  # [B, N, E]
        similarity = cosine.gather(2, edges)
        lead = similarity - similarity.amin(dim=2, keepdim=True) if count else similarity
        return edges, lead / (lead.sum(dim=2, keepdim=True) + STANDING_OUT)


class EdgeConvolution(nn.Module):
    """One round of messages: each node adds what the largest of its near edges say, channel by channel, and what those
    that are alike say on average."""

    def __init__(self, width: int, alike: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ends = nn.Linear(width, width)
        self.alike_bias = nn.Parameter(torch.zeros(width)) if alike else None
        self.out = nn.Linear(2 * width if alike else width, width)

    def forward(self, nodes: Tensor, near: Tensor, alike: tuple[Tensor, Tensor] | None) -> Tensor:
        """New nodes ``[B, N, C]``.

        Args:
            near: ``[N, E]`` int64, the other ends of the edges of all images.
            alike: ``[B, N, A]`` both, the other ends of each image's own edges and their weights.
        """
        sent = F.linear(self.norm(nodes), self.ends.weight)  # [B, N, C]
        # What is the same on all edges of a node may wait until after the maximum.
        messages = [F.relu(sent[:, near].amax(dim=2) - sent + self.ends.bias)]  # [B, N, C]
        if alike is not None and self.alike_bias is not None:
            edges, weights = alike
            there = edges.flatten(1).unsqueeze(2).expand(-1, -1, sent.shape[2])  # [B, N * A, C]
            heard = (weights.unsqueeze(3) * sent.gather(1, there).unflatten(1, edges.shape[1:])).sum(dim=2)
            messages.append(F.relu(heard - weights.sum(dim=2, keepdim=True) * sent + self.alike_bias))
        step: Tensor = self.out(torch.cat(messages, dim=2))
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
