"""Beyond the first stage: rounds that score the best boxes and move them, and voting.

A round sees of a box the map sampled on a grid over it, which keeps where in the box something is, the scores so far,
and the box's place and shape.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.analytical.anchors import decode, sides_of
from detheads.analytical.config import Config
from detheads.ops.decisions import decide
from detheads.ops.ranking import highest

MARGIN = 1.5
"""The grid covers the box and a margin: this many times its sides."""


class Refinement(nn.ModuleList):
    """The rounds, one after the other.

    Args:
        height, width: of the input, pixels.
    """

    def __init__(self, config: Config, num_classes: int, height: int, width: int) -> None:
        inputs = config.components * config.grid**2 + num_classes + 7
        super().__init__(Round(inputs, num_classes, config.hidden) for _ in range(config.rounds))
        self.grid, self.proposals, self.height, self.width = config.grid, config.proposals, height, width

    def forward(self, base: Tensor, boxes: Tensor, logits: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
        """The best boxes after some rounds.

        Args:
            base: ``[B, components, h, w]``, the compressed map.
            boxes: ``[B, N, 4]`` xyxy, input pixels.
            logits: ``[B, N, K]``.

        Returns:
            Boxes ``[B, P, 4]`` and predicted IoUs ``[B, P, K]`` (after no round: the logits).
        """
        boxes, scores = self.best(boxes, logits)
        for index in range(rounds):
            scores, offsets = self.round(index)(self.inputs(base, boxes, scores))
            boxes = self.moved(boxes, offsets)
        return boxes, scores

    def round(self, index: int) -> "Round":
        """The ridge regressions of one round."""
        found = self[index]
        assert isinstance(found, Round)
        return found

    def best(self, boxes: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The boxes of highest log-odds, cut at the input's edges: ``[B, P, 4]``, and their logits ``[B, P, K]``."""
        _, chosen = highest(logits.amax(dim=2), min(self.proposals, logits.shape[1]))  # [B, P]
        boxes = boxes.gather(1, chosen.unsqueeze(2).expand(-1, -1, 4))
        return self.clipped(boxes), logits.gather(1, chosen.unsqueeze(2).expand(-1, -1, logits.shape[2]))

    def inputs(self, base: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
        """What a round sees of each box: ``[B, P, components * grid^2 + K + 7]``."""
        sampled = region_features(base, boxes, self.grid, self.height, self.width)
        return torch.cat((sampled, scores, geometry_features(boxes, self.height, self.width)), dim=2)

    def moved(self, boxes: Tensor, offsets: Tensor) -> Tensor:
        """Boxes after offsets in units of their own sides, cut at the input's edges."""
        return self.clipped(decode(offsets, (boxes[..., :2] + boxes[..., 2:]) / 2, sides_of(boxes)))

    def clipped(self, boxes: Tensor) -> Tensor:
        """Boxes inside the input, at least a pixel on each side."""
        x1, y1, x2, y2 = boxes.unbind(dim=-1)
        left, top = x1.clamp(0, self.width - 1), y1.clamp(0, self.height - 1)
        right = torch.maximum(x2.clamp(max=self.width), left + 1)
        bottom = torch.maximum(y2.clamp(max=self.height), top + 1)
        return torch.stack((left, top, right, bottom), dim=-1)


class Round(nn.Module):
    """Ridge regressions of one round: predicted IoU with an object of each class, and box offsets."""

    random_weight: Tensor
    random_bias: Tensor

    def __init__(self, inputs: int, num_classes: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("random_weight", torch.zeros(inputs, hidden))
        self.register_buffer("random_bias", torch.zeros(hidden))
        self.score_weight = nn.Parameter(torch.zeros(inputs + hidden, num_classes))
        self.score_bias = nn.Parameter(torch.zeros(num_classes))
        self.offset_weight = nn.Parameter(torch.zeros(inputs + hidden, 4))
        self.offset_bias = nn.Parameter(torch.zeros(4))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.expand(inputs)
        return rows @ self.score_weight + self.score_bias, rows @ self.offset_weight + self.offset_bias

    def expand(self, inputs: Tensor) -> Tensor:
        """The inputs and their random rectified features ``relu(x R + r)``: ``[B, P, inputs + hidden]``."""
        if not self.random_bias.numel():
            return inputs
        return torch.cat((inputs, F.relu(inputs @ self.random_weight + self.random_bias)), dim=2)


def region_features(features: Tensor, boxes: Tensor, grid: int, height: int, width: int) -> Tensor:
    """Bilinear samples at ``grid x grid`` points evenly spread over each box and its margin.

    Args:
        features: ``[B, C, h, w]``, a map of the input of ``height x width`` pixels; beyond its edges it goes on as
            it is there.
        boxes: ``[B, P, 4]`` xyxy, input pixels.

    Returns:
        ``[B, P, C * grid * grid]``.
    """
    steps = (torch.arange(grid, device=boxes.device) + 0.5) / grid - 0.5  # of a side, from the centre
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack((x, y), dim=2).view(-1, 2) * MARGIN  # [G, 2]
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    places = centers.unsqueeze(2) + sides_of(boxes).unsqueeze(2) * offsets  # [B, P, G, 2] input pixels
    extent = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    sampled = F.grid_sample(features, places / extent * 2 - 1, padding_mode="border", align_corners=False)
    return sampled.permute(0, 2, 1, 3).flatten(2)  # [B, C, P, G] -> [B, P, C * G]


def geometry_features(boxes: Tensor, height: int, width: int) -> Tensor:
    """What a box's place and shape say of it, ``[B, P, 7]``: log sides, their products, and the centre."""
    extent = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    w, h = (sides_of(boxes).clamp(min=1.0) / extent).log().unbind(dim=-1)
    x, y = ((boxes[..., :2] + boxes[..., 2:]) / 2 / extent - 0.5).unbind(dim=-1)
    return torch.stack((w, h, w * w, h * h, w * h, x, y), dim=-1)


def vote(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Each box as the mean of those that overlap it, weighted by score (Gidaris & Komodakis 2015, section 4.3).

    Args:
        boxes: ``[B, P, 4]`` xyxy.
        scores: ``[B, P]``, not negative.
        iou: boxes count from this IoU on.

    Returns:
        ``[B, P, 4]``.
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    common = torch.minimum(high.unsqueeze(2), high.unsqueeze(1)) - torch.maximum(low.unsqueeze(2), low.unsqueeze(1))
    intersection = common.relu().prod(dim=3)  # [B, P, P]
    area = sides_of(boxes).prod(dim=2)
    overlap = intersection / (area.unsqueeze(2) + area.unsqueeze(1) - intersection)
    weights = torch.where(decide(overlap, lambda overlap: overlap >= iou), scores.unsqueeze(1), 0.0)
    return weights @ boxes / weights.sum(dim=2, keepdim=True).clamp(min=1e-9)
