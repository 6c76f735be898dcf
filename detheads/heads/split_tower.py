"""Split towers on cofiber bands: the flagship.

Hypothesis: a strong frozen encoder already holds what a feature pyramid would learn, so the scales can come from a
decomposition without parameters (``detheads/cofiber.py``), and the budget goes into separate towers for class and box.
Classes are compared, as cosine similarities, with text embeddings of their names, or with learned prototypes.

Four cofiber bands (strides s, 2s, 4s, 8s) pass one shared stem and are summed top-down; a level of stride s/2 is
synthesised by one transposed convolution, joined by the backbone's own map of that stride where there is one.
At 768 channels, 80 classes and 768-d text embeddings the default has 2,975,067 parameters.

Source: phanerozoic/detection-heads. Refuted if a plain FCOS of equal size on the same cache does as well.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.cofiber import decompose, upsample_to
from detheads.heads.blocks import (
    ChannelDropout,
    DepthwiseResidual,
    conv_norm,
    conv_norm_relu,
    join_main,
    join_stride,
    joined_channels,
)
from detheads.heads.contract import FeatureSpec, HeadOutput
from detheads.heads.dense import PRIOR_BIAS, Assigner, PointHead, init_prediction
from detheads.heads.registry import register

BANDS = 4


@dataclass(frozen=True)
class Config:
    """Options of ``split_tower``.

    Attributes:
        hidden: channels of stem and towers.
        standard_blocks: 3x3 convolutions in each tower.
        depthwise_blocks: depthwise residual blocks behind them.
        prototypes: ``text`` compares with given class embeddings, ``learned`` learns them.
        text_dim: dimension of the embedding space.
        assigner: ``atss`` or ``fcos``.
        dropout: share of the backbone's channels dropped in each training step.
    """

    hidden: int = 160
    standard_blocks: int = 5
    depthwise_blocks: int = 4
    prototypes: Literal["text", "learned"] = "text"
    text_dim: int = 768
    assigner: Assigner = "atss"
    dropout: float = 0.0


@register(Config)
class SplitTower(PointHead):
    """Cofiber bands instead of a pyramid, separate towers, classes as cosine similarities."""

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        stride = join_stride(spec)
        super().__init__(
            spec.height, spec.width, [stride / 2 * 2**level for level in range(BANDS + 1)], config.assigner
        )
        self.spec, hidden, channels = spec, config.hidden, joined_channels(spec)
        self.dropout = ChannelDropout(config.dropout)
        self.stem = nn.Sequential(conv_norm(channels, channels, 3, groups=channels), nn.Conv2d(channels, hidden, 1))
        self.laterals = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(BANDS - 1))
        self.finer = nn.ConvTranspose2d(hidden, hidden, 2, stride=2)
        finest = [layer for layer in spec.main_layers if layer.stride * 2 == stride]
        self.finest_layer = finest[0].name if finest else None
        self.finest_lateral = conv_norm(finest[0].channels, hidden, 1) if finest else None
        self.class_tower = _tower(hidden, config)
        self.box_tower = _tower(hidden, config)
        self.classifier = CosineClassifier(hidden, num_classes, config)
        self.distances = init_prediction(nn.Conv2d(hidden, 4, 3, padding=1), bias=1.0)
        self.centerness = init_prediction(nn.Conv2d(hidden, 1, 3, padding=1))

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        levels = self.levels(self.dropout(features))  # 5 x [B, hidden, H, W]
        for_boxes = [self.box_tower(level) for level in levels]
        return self.decode(
            [self.classifier(self.class_tower(level)) for level in levels],
            [self.distances(level) for level in for_boxes],
            [self.centerness(level) for level in for_boxes],
        )

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Five maps ``[B, hidden, H, W]``, strides s/2 to 8s."""
        bands = [self.stem(band) for band in decompose(join_main(features, self.spec), BANDS)]
        for index in range(BANDS - 2, -1, -1):  # top-down: each band hears the coarser ones
            bands[index] = bands[index] + self.laterals[index](upsample_to(bands[index + 1], bands[index]))
        finer = self.finer(bands[0])
        if self.finest_layer is not None and self.finest_lateral is not None:
            finer = finer + self.finest_lateral(features[self.finest_layer])
        return [finer, *bands]

    def set_class_embeddings(self, embeddings: Tensor) -> None:
        """Compare classes with these text embeddings ``[K, text_dim]``, and start the projection from their PCs."""
        self.classifier.set_embeddings(embeddings)


class CosineClassifier(nn.Module):
    """``scale * cos(project(x), embedding_k) + bias_k`` at every point."""

    def __init__(self, hidden: int, num_classes: int, config: Config) -> None:
        super().__init__()
        self.cls_project = nn.Linear(hidden, config.text_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP's initial temperature
        self.cls_bias = nn.Parameter(torch.full((num_classes,), PRIOR_BIAS))
        embeddings = F.normalize(torch.randn(num_classes, config.text_dim), dim=1)
        if config.prototypes == "learned":
            self.embeddings = nn.Parameter(embeddings)
        else:
            self.register_buffer("embeddings", embeddings)

    def forward(self, x: Tensor) -> Tensor:
        projected = F.linear(x.permute(0, 2, 3, 1), self.cls_project.weight)  # [B, H, W, text_dim]
        prototypes = F.normalize(self.embeddings, dim=1)  # [K, text_dim]
        cosine = F.linear(F.normalize(projected, dim=3), prototypes)  # [B, H, W, K]
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        return (cosine * scale + self.cls_bias).permute(0, 3, 1, 2)  # [B, K, H, W]

    def set_embeddings(self, embeddings: Tensor) -> None:
        expected = tuple(self.embeddings.shape)
        if tuple(embeddings.shape) != expected:
            raise ValueError(f"class embeddings have shape {tuple(embeddings.shape)}, expected {expected}")
        with torch.no_grad():
            self.embeddings.copy_(F.normalize(embeddings.float(), dim=1))
            components = torch.linalg.svd(self.embeddings, full_matrices=False).Vh  # [min(K, text_dim), text_dim]
            count = min(len(components), self.cls_project.in_features)
            self.cls_project.weight[:, :count] = components[:count].T


def _tower(hidden: int, config: Config) -> nn.Sequential:
    standard = [conv_norm_relu(hidden, hidden, 3) for _ in range(config.standard_blocks)]
    return nn.Sequential(*standard, *(DepthwiseResidual(hidden) for _ in range(config.depthwise_blocks)))
