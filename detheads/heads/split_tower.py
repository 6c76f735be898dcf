"""Split towers on cofiber bands: the flagship.

Hypothesis: a strong frozen encoder already holds what a feature pyramid would learn, so the scales can come from a
decomposition without parameters (``detheads/ops/cofiber.py``), and the budget goes into separate towers for class and
box. Classes are compared, as cosine similarities, with text embeddings of their names, or with learned prototypes.

Four cofiber bands (strides s, 2s, 4s, 8s) pass one shared stem and are summed top-down; a level of stride s/2 is
synthesised by one transposed convolution, joined by the backbone's own map of that stride where there is one.
At 768 channels, 80 classes and 768-d text embeddings the default has 2,975,067 parameters.

Source: phanerozoic/detection-heads. Refuted, difference by difference, if averages in place of the bands
(``scales=lowpass``) or a learned pyramid (``scales=pyramid``), one tower for both tasks (``towers=shared``, as deep as
both) or a linear classifier (``prototypes=linear``) does as well in ``detheads arena run --heads split_tower
--with-controls``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import (
    ChannelDropout,
    DepthwiseResidual,
    FinerLevel,
    conv_norm,
    conv_norm_relu,
    join_main,
    joined_channels,
)
from detheads.headkit.contract import HeadOutput
from detheads.headkit.controls import NEARLY, Control
from detheads.headkit.cosine import CosineClassifier
from detheads.headkit.dense import Assigner, PointHead, init_prediction, tower
from detheads.headkit.octaves import octave_strides
from detheads.headkit.options import Share
from detheads.headkit.prior import PRIOR_BIAS
from detheads.headkit.registry import register
from detheads.ops.cofiber import decompose, low_passes, upsample_to

BANDS = 4


@dataclass(frozen=True)
class Config:
    """Options of ``split_tower``.

    Attributes:
        hidden: channels of stem and towers.
        standard_blocks: 3x3 convolutions in each tower.
        depthwise_blocks: depthwise residual blocks behind them.
        prototypes: ``text`` compares with given class embeddings, ``learned`` learns them, ``linear`` compares with
            nothing: a convolution gives the class logits.
        scales: cofiber ``bands``, the ``lowpass`` residuals that they are differences of, or a ``pyramid`` of learned
            strided convolutions; the laterals add the coarser ones in any case.
        towers: ``split``, one for classes and one for boxes, or ``shared``, one of the blocks of both.
        text_dim: dimension of the embedding space.
        pc_init: whether the projection into it starts from the principal components of given embeddings.
        assigner: ``atss`` or ``fcos``.
        dropout: share of the backbone's channels dropped in each training step.
    """

    hidden: PositiveInt = 160
    standard_blocks: NonNegativeInt = 5
    depthwise_blocks: NonNegativeInt = 4
    prototypes: Literal["text", "learned", "linear"] = "text"
    scales: Literal["bands", "lowpass", "pyramid"] = "bands"
    towers: Literal["split", "shared"] = "split"
    text_dim: PositiveInt = 768
    pc_init: bool = True
    assigner: Assigner = "atss"
    dropout: Share = 0.0


@register(Config)
class SplitTower(PointHead):
    """Cofiber bands instead of a pyramid, separate towers, classes as cosine similarities."""

    controls = MappingProxyType(
        {
            "bands": Control(
                "What each scale adds tells more than averages of all that is coarser.", {"scales": "lowpass"}
            ),
            "fixed_scales": Control(
                "A decomposition without parameters does as well as a learned pyramid.",
                {"scales": "pyramid"},
                allowance=NEARLY,
            ),
            "two_towers": Control("Classes and boxes need towers of their own.", {"towers": "shared"}),
            "cosine": Control("Directions tell classes apart better than a linear layer.", {"prototypes": "linear"}),
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec.height, spec.width, octave_strides(spec, BANDS + 1), config.assigner)
        self.spec, hidden, channels = spec, config.hidden, joined_channels(spec)
        self.dropout = ChannelDropout(config.dropout)
        self.stem = nn.Sequential(conv_norm(channels, channels, 3, groups=channels), nn.Conv2d(channels, hidden, 1))
        self.laterals = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(BANDS - 1))
        self.finer = FinerLevel(spec, hidden)
        self.scales, self.shared = config.scales, config.towers == "shared"
        self.pc_init = config.pc_init
        if self.scales == "pyramid":
            self.coarser = nn.ModuleList(conv_norm_relu(hidden, hidden, 3, stride=2) for _ in range(BANDS - 1))
        self.class_tower = _tower(hidden, config)
        self.box_tower = _tower(hidden, config)
        if config.prototypes == "linear":
            self.classifier: nn.Module = init_prediction(nn.Conv2d(hidden, num_classes, 1), bias=PRIOR_BIAS)
        else:
            learned = config.prototypes == "learned"
            self.classifier = CosineClassifier(hidden, num_classes, config.text_dim, learned=learned)
        self.distances = init_prediction(nn.Conv2d(hidden, 4, 3, padding=1), bias=1.0)
        self.centerness = init_prediction(nn.Conv2d(hidden, 1, 3, padding=1))

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        levels = self.levels(self.dropout(features))  # 5 x [B, hidden, H, W]
        if self.shared:  # one tower behind the other
            for_both = [self.box_tower(self.class_tower(level)) for level in levels]
            return self.predict(for_both, for_both)
        return self.predict([self.class_tower(level) for level in levels], [self.box_tower(level) for level in levels])

    def predict(self, for_classes: Sequence[Tensor], for_boxes: Sequence[Tensor]) -> HeadOutput:
        """Dense predictions from ``[B, hidden, H, W]`` a level behind the towers."""
        return self.decode(
            [self.classifier(level) for level in for_classes],
            [self.distances(level) for level in for_boxes],
            [self.centerness(level) for level in for_boxes],
        )

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Five maps ``[B, hidden, H, W]``, strides s/2 to 8s."""
        bands = self.bands(join_main(features, self.spec))
        for index in range(BANDS - 2, -1, -1):  # top-down: each band hears the coarser ones
            bands[index] = bands[index] + self.laterals[index](upsample_to(bands[index + 1], bands[index]))
        return [self.finer(bands[0], features), *bands]

    def bands(self, joined: Tensor) -> list[Tensor]:
        """Four maps ``[B, hidden, H, W]``, strides s to 8s, of the joined one ``[B, C, H, W]``."""
        if self.scales == "pyramid":
            bands = [self.stem(joined)]
            for downsample in self.coarser:
                bands.append(downsample(bands[-1]))
            return bands
        split = decompose if self.scales == "bands" else low_passes
        return [self.stem(band) for band in split(joined, BANDS)]

    def start_from(self, features: Mapping[str, Tensor]) -> None:
        """Start the class logits from the prior on these features; a linear classifier does so by itself."""
        if isinstance(self.classifier, CosineClassifier):
            with torch.no_grad():
                self.classifier.start_from(self(features).logits)

    def set_class_embeddings(self, embeddings: Tensor) -> None:
        """Compare classes with these text embeddings ``[K, text_dim]``; with ``pc_init`` the projection starts from
        their principal components."""
        if not isinstance(self.classifier, CosineClassifier):
            super().set_class_embeddings(embeddings)
        else:
            self.classifier.set_embeddings(embeddings, pc_init=self.pc_init)


def _tower(hidden: int, config: Config) -> nn.Sequential:
    depthwise = (DepthwiseResidual(hidden) for _ in range(config.depthwise_blocks))
    return nn.Sequential(*tower(hidden, config.standard_blocks), *depthwise)
