"""Attention between sets of vectors: what the heads that compute with queries, slots and tokens share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_CHANNELS = 16
"""Channels of one attention head, where the width allows it."""

OCTAVES = 6
"""Frequencies of a sine encoding: half a wave across the image, then one octave more each."""

ENCODED = 2 * OCTAVES
"""Numbers that encode one coordinate."""


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) with separate inputs for queries, keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = attention_heads(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # a softmax over the keys does not see their bias
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, prior: Tensor | None = None) -> Tensor:
        """``[B, Q, C]`` from queries ``[B, Q, C]``, keys and values ``[B, N, C]``.

        Args:
            prior: added to the attention logits, broadcastable to ``[B, heads, Q, N]``.
        """
        q, k, v = self._split(self.query(queries)), self._split(self.key(keys)), self._split(self.value(values))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=prior)  # [B, heads, Q, C / heads]
        read: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # [B, Q, C]
        return read

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, N, C / heads]


class SelfAttention(nn.Module):
    """``x + attention among x``, normalised first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width)

    def forward(self, x: Tensor, positions: Tensor | float = 0.0) -> Tensor:
        """``[B, N, C]``; ``positions`` tell queries and keys, not values, where they are."""
        normed = self.norm(x)
        placed = normed + positions
        read: Tensor = self.attention(placed, placed, normed)
        return x + read


class FeedForward(nn.Module):
    """``x + MLP(x)``, normalised first, twice as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        step: Tensor = self.layers(x)
        return x + step


def attention_heads(width: int) -> int:
    """How many heads share ``width`` channels evenly: one for every 16, or as many as divide them."""
    heads = max(1, width // HEAD_CHANNELS)
    while width % heads:
        heads -= 1
    return heads


def sine_encoding(coordinates: Tensor) -> Tensor:
    """Sines and cosines of coordinates in ``[0, 1]``: points (x, y), or boxes (centre, size).

    Args:
        coordinates: ``[..., D]``.

    Returns:
        ``[..., D * ENCODED]``, whose dot products fall with distance.
    """
    octaves = torch.arange(OCTAVES, device=coordinates.device, dtype=torch.float32)
    angles = (coordinates.float().unsqueeze(-1) * (math.pi * 2.0**octaves)).flatten(-2)  # [..., D * OCTAVES]
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
