"""Mutual attention: patches and object slots tell each other what is where before anything is detected.

Hypothesis: whether a patch is part of an object depends on what else is in the picture, and convolutions carry that no
further than their receptive field. A few learned slots read from all patches, attend to each other, and are read by
all patches: relations between objects at the cost of slots times patches, ahead of an ordinary dense head. The
read-back starts near zero, so that the dense head is what training departs from.

Sources: Jaegle et al. 2021, "Perceiver"; Locatello et al. 2020, "Object-Centric Learning with Slot Attention"; Hu et
al. 2018, "Relation Networks for Object Detection"; phanerozoic/detection-heads, ``mutual_attention``. Refuted if the
same head without rounds (``layers=0``) does as well in ``detheads arena run --heads mutual_attention --with-controls``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.attention import ENCODED, Attention, FeedForward, SelfAttention, sine_encoding
from detheads.headkit.blocks import FinerLevel, conv_norm, join_main, join_stride, joined_channels
from detheads.headkit.controls import Control
from detheads.headkit.dense import PyramidConfig, PyramidHead
from detheads.headkit.octaves import octave_levels, octave_strides
from detheads.headkit.registry import register
from detheads.ops.points import grid_points

LEVELS = 4


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``mutual_attention``.

    Attributes:
        slots: learned vectors through which patches hear of each other.
        layers: rounds of reading, relating and reading back; 0 leaves a plain dense head.
    """

    slots: PositiveInt = 16
    layers: NonNegativeInt = 2


@register(Config)
class MutualAttention(PyramidHead):
    """Patches and object slots attend to each other ahead of a dense head."""

    controls = MappingProxyType(
        {"slots": Control("Patches that hear of all others, by way of slots, are told apart better.", {"layers": 0})}
    )
    places: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        width, stride = config.width, join_stride(spec)
        super().__init__(spec, num_classes, octave_strides(spec, LEVELS), config, config.assigner)
        self.project = conv_norm(joined_channels(spec), width, 1)
        if config.layers:
            self.slots = nn.Parameter(torch.randn(config.slots, width))
            self.place = nn.Linear(2 * ENCODED, width)
        self.rounds = nn.ModuleList(Round(width) for _ in range(config.layers))
        self.finer = FinerLevel(spec, width)
        places = grid_points(spec.height, spec.width, stride) / torch.tensor([spec.width, spec.height])
        self.register_buffer("places", places, persistent=False)  # [N, 2], shares of the input size

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Four maps ``[B, width, H, W]``, strides s/2 to 4s."""
        x = self.relate(self.project(join_main(features, self.spec)))
        return octave_levels(x, self.finer, features, LEVELS)

    def relate(self, x: Tensor) -> Tensor:
        """The map ``[B, width, H, W]`` after every patch has heard, by way of the slots, of all others."""
        if not self.rounds:
            return x
        patches = x.flatten(2).transpose(1, 2)  # [B, N, C]
        slots = self.slots.expand(x.shape[0], -1, -1)  # [B, S, C]
        positions = self.place(sine_encoding(self.places))  # [N, C]
        for mutual in self.rounds:
            patches, slots = mutual(patches, slots, positions)
        return patches.transpose(1, 2).unflatten(2, x.shape[-2:])


class Round(nn.Module):
    """Slots read from the patches, relate to each other, and are read by the patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_norm = nn.LayerNorm(width)
        self.slot_norm = nn.LayerNorm(width)
        self.read = Attention(width)
        self.relate = nn.Sequential(SelfAttention(width), FeedForward(width), nn.LayerNorm(width))
        self.read_back = Attention(width)
        nn.init.normal_(self.read_back.out.weight, std=0.01)

    def forward(self, patches: Tensor, slots: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """New patches ``[B, N, C]`` and slots ``[B, S, C]``; ``positions`` ``[N, C]`` say where the patches are."""
        placed = self.patch_norm(patches) + positions
        slots = self.relate(slots + self.read(self.slot_norm(slots), placed, placed))
        return patches + self.read_back(placed, slots, slots), slots
