"""Adaptive queries: learned vectors look for objects, and a detection is what one of them read.

Hypothesis: a frozen encoder already separates objects, so a few queries that attend to its patches can say all there
is to say, once each, without anchors and without suppression. What made such queries slow to train is that they had
to find their place first; here each has a box from the start, and every attention head looks through a Gaussian window
whose place and sharpness, relative to that box, the query decides anew in each layer.

A layer: self-attention of the queries, windowed cross-attention to the patches of the stride-s map, feed-forward; then
a correction of the box and class logits, which are trained after every layer.

Sources: Carion et al. 2020, "End-to-End Object Detection with Transformers"; Liu et al. 2022, "DAB-DETR" (queries
are boxes, refined by layers); Gao et al. 2021, "Fast Convergence of DETR with Spatially Modulated Co-Attention"
(Gaussian windows); phanerozoic/detection-heads, ``adaptive_query``. Refuted if queries that look everywhere alike
(``windows=false``), or start from the whole image (``start=whole``), do as well in ``detheads arena run --heads
adaptive_query --with-controls``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.attention import ENCODED, Attention, FeedForward, SelfAttention, attention_heads, sine_encoding
from detheads.headkit.blocks import ChannelDropout, conv_norm, join_main, join_stride, joined_channels
from detheads.headkit.contract import HeadOutput
from detheads.headkit.controls import Control
from detheads.headkit.dense import TowerConfig, tower
from detheads.headkit.queries import Prediction, QueryHead, box_layers, class_layer
from detheads.headkit.registry import register
from detheads.ops.points import grid_points

WHOLE = (0.5, 0.5, 0.95, 0.95)
"""Centre and size of about the whole image, shares of it."""

MAX_LOG_SHARPNESS = 2.0
"""A window is at most e^2 times narrower or wider than the query's box."""


@dataclass(frozen=True)
class Config(TowerConfig):
    """Options of ``adaptive_query``.

    Attributes:
        queries: learned vectors, the most objects found in an image.
        layers: rounds of reading and refining.
        windows: attention through Gaussian windows that follow the boxes; else attention alone decides.
        start: of the boxes, which are learned: a ``grid`` over the image, or the ``whole`` of it each.
    """

    queries: PositiveInt = 100
    layers: PositiveInt = 3
    windows: bool = True
    start: Literal["grid", "whole"] = "grid"


@register(Config)
class AdaptiveQuery(QueryHead):
    """Learned queries read the patches through windows that follow their boxes."""

    controls = MappingProxyType(
        {
            "windows": Control("Queries learn sooner what to read when they look near their box.", {"windows": False}),
            "grid": Control("Boxes spread over the image spare queries the search for a place.", {"start": "whole"}),
        }
    )
    places: Tensor
    columns: Tensor
    rows: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec)
        width, stride = config.width, join_stride(spec)
        self.dropout = ChannelDropout(config.dropout)
        self.stem = nn.Sequential(conv_norm(joined_channels(spec), width, 1), *tower(width, config.tower_blocks))
        self.token_norm = nn.LayerNorm(width)
        self.place = nn.Linear(2 * ENCODED, width)
        self.contents = nn.Parameter(torch.randn(config.queries, width))
        grid, whole = reference_boxes(config.queries, spec.height / spec.width), torch.tensor(WHOLE)
        start = grid if config.start == "grid" else whole.repeat(config.queries, 1)
        self.references = nn.Parameter(start.logit())
        self.layers = nn.ModuleList(
            DecoderLayer(width, stride / self.size[:2], windows=config.windows) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classes = class_layer(width, num_classes)
        self.corrections = box_layers(width, bias=0.0)
        places = grid_points(spec.height, spec.width, stride) / self.size[:2]
        self.register_buffer("places", places, persistent=False)  # [N, 2], shares of the input size
        self.register_buffer("columns", places[:, 0].unique(), persistent=False)  # [W]
        self.register_buffer("rows", places[:, 1].unique(), persistent=False)  # [H]

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        patches = self.stem(join_main(self.dropout(features), self.spec))  # [B, C, H, W]
        values = self.token_norm(patches.flatten(2).transpose(1, 2))  # [B, N, C]
        keys = values + self.place(sine_encoding(self.places))
        batch = patches.shape[0]
        contents = self.contents.expand(batch, -1, -1)  # [B, Q, C]
        references = self.references.expand(batch, -1, -1)  # [B, Q, 4], logits of centre and size
        predictions: list[Prediction] = []
        for layer in self.layers:
            contents = layer(contents, references.sigmoid(), keys, values, self.columns, self.rows)
            read = self.norm(contents)
            references = references + self.corrections(read).float()
            predictions.append((self.to_pixels(references.sigmoid()), self.classes(read).float()))
            references = references.detach()  # each layer learns its own correction
        boxes, logits = predictions[-1]
        return HeadOutput(boxes, logits, None, {"intermediate": predictions[:-1]})

    def to_pixels(self, boxes: Tensor) -> Tensor:
        """Centre and size ``[B, Q, 4]``, shares of the input size, to xyxy in input pixels."""
        center, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat((center - half, center + half), dim=-1) * self.size


class DecoderLayer(nn.Module):
    """Queries attend to each other, then to the patches, then think.

    Args:
        cell: ``[2]`` width and height of a patch as shares of the input size.
        windows: of the second attention, see :meth:`log_window`.
    """

    cell: Tensor

    def __init__(self, width: int, cell: Tensor, *, windows: bool = True) -> None:
        super().__init__()
        self.register_buffer("cell", cell, persistent=False)
        self.heads = attention_heads(width)
        self.place = nn.Linear(4 * ENCODED, width)
        self.among = SelfAttention(width)
        self.norm = nn.LayerNorm(width)
        self.windows = windows
        if windows:
            self.window = window_layer(width, self.heads)
        self.read = Attention(width)
        self.think = FeedForward(width)

    def forward(
        self, contents: Tensor, boxes: Tensor, keys: Tensor, values: Tensor, columns: Tensor, rows: Tensor
    ) -> Tensor:
        """New contents ``[B, Q, C]``.

        Args:
            contents: ``[B, Q, C]``.
            boxes: ``[B, Q, 4]`` centre and size, shares of the input size.
            keys, values: ``[B, H * W, C]``, the patches row by row.
            columns, rows: ``[W]`` and ``[H]``, where the patches lie, shares of the input size.
        """
        position = self.place(sine_encoding(boxes))  # [B, Q, C]
        contents = self.among(contents, position)
        queries = self.norm(contents)
        prior = self.log_window(queries, boxes, columns, rows) if self.windows else None
        contents = contents + self.read(queries + position, keys, values, prior)
        thought: Tensor = self.think(contents)
        return thought

    def log_window(self, queries: Tensor, boxes: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
        """Logarithm of each head's Gaussian window, ``[B, heads, Q, H * W]``; arguments as of :meth:`forward`.

        Its centre lies in the box; its deviation is half the box's size, sharpened by the query, but half a patch at
        least, so that no window falls between the patches.
        """
        window = self.window(queries).float().unflatten(2, (self.heads, 4)).transpose(1, 2)  # [B, heads, Q, 4]
        center, half = boxes[..., :2].unsqueeze(1), boxes[..., 2:].unsqueeze(1) / 2  # [B, 1, Q, 2] each
        center = center + window[..., :2].tanh() * half  # [B, heads, Q, 2]
        sharpness = window[..., 2:].clamp(-MAX_LOG_SHARPNESS, MAX_LOG_SHARPNESS).exp()
        deviation = half / sharpness + self.cell / 2
        x = (columns - center[..., :1]) / deviation[..., :1]  # [B, heads, Q, W]
        y = (rows - center[..., 1:]) / deviation[..., 1:]  # [B, heads, Q, H]
        return -(y.square().unsqueeze(-1) + x.square().unsqueeze(-2)).flatten(3) / 2


def window_layer(width: int, heads: int) -> nn.Linear:
    """Place and sharpness of each head's window from a query; the heads start in a circle around the box's centre."""
    layer = nn.Linear(width, heads * 4)
    nn.init.normal_(layer.weight, std=0.01)
    angles = torch.arange(heads) * (2 * math.pi / heads)
    with torch.no_grad():
        layer.bias.copy_(torch.stack((angles.cos() / 2, angles.sin() / 2, *[0 * angles] * 2), dim=1).flatten())
    return layer


def reference_boxes(count: int, aspect: float) -> Tensor:
    """``count`` boxes ``[count, 4]`` in rows over the whole image, each two steps of its row wide and two rows high.

    Args:
        aspect: height of the image divided by its width.

    Returns:
        Centre and size, shares of the image's size, below 1.
    """
    rows = min(count, max(1, round(math.sqrt(count * aspect))))
    row = torch.arange(count) * rows // max(1, count)  # [count]
    per_row = torch.bincount(row)  # [rows]
    before = per_row.cumsum(0) - per_row
    x = (torch.arange(count) - before[row] + 0.5) / per_row[row]
    size = torch.stack((2 / per_row[row], torch.full((count,), 2 / max(1, rows))), dim=1).clamp(max=0.95)
    return torch.cat((torch.stack((x, (row + 0.5) / rows), dim=1), size), dim=1)
