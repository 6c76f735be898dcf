"""Prototypes: classes are fixed directions that nothing has to learn.

Hypothesis: a strong frozen encoder has already put the classes apart, so the classifier needs no weights of its own:
what a class looks like is the mean of the encoder's features where it was seen, or the embedding of its name. The head
only learns to clean a point's features up, as a projection back into that space, and the cosine with the fixed
direction of each class decides. A class costs nothing but its mean, and rare classes are as well defined as others.

Sources: Snell, Swersky, Zemel. Prototypical Networks for Few-shot Learning. NeurIPS 2017 (the class mean as
prototype). Radford et al. Learning Transferable Visual Models From Natural Language Supervision. ICML 2021 (text).
phanerozoic/detection-heads, row ``prototype``. Refuted if directions that are learned with all else
(``prototypes=learned``) do better in ``detheads arena run --heads prototype --with-controls``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import join_main, join_stride, joined_channels
from detheads.headkit.contract import HeadOutput
from detheads.headkit.controls import NEARLY, Control
from detheads.headkit.cosine import CosineClassifier
from detheads.headkit.dense import PyramidConfig
from detheads.headkit.matching import Matches
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.registry import register
from detheads.ops.across import total_across_processes
from detheads.targets.heatmap import grid_cells
from detheads.targets.objects import Targets

LEVELS = 4


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``prototype``.

    Attributes:
        prototypes: ``text`` compares with given class embeddings, ``image`` with the mean backbone features of the
            training objects of each class, ``learned`` with directions that are parameters.
        text_dim: dimension of the text embeddings.
        dropout: share of the backbone's channels dropped in each training step; the means never miss a channel.
    """

    prototypes: Literal["text", "image", "learned"] = "text"
    text_dim: PositiveInt = 768


@register(Config)
class Prototype(OctaveHead):
    """Classes as fixed prototypes: mean backbone features, or text embeddings."""

    controls = MappingProxyType(
        {
            "fixed": Control(
                "Directions that nothing learns tell classes apart as well.",
                {"prototypes": "learned"},
                allowance=NEARLY,
            )
        }
    )
    feature_sums: Tensor
    feature_counts: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec, num_classes, LEVELS, config, config.assigner)
        self.from_images = config.prototypes == "image"
        dimension = joined_channels(spec) if self.from_images else config.text_dim
        learned = config.prototypes == "learned"
        self.classes: CosineClassifier = CosineClassifier(config.width, num_classes, dimension, learned=learned)
        if self.from_images:
            self.register_buffer("feature_sums", torch.zeros(num_classes, dimension))
            self.register_buffer("feature_counts", torch.zeros(num_classes))

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        output = super().forward(features)
        return replace(output, extras={"backbone": join_main(features, self.spec)}) if self.from_images else output

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The usual terms. In training, the means of the classes hear of the positive points first."""
        matches = self.match(output, targets)
        if self.from_images and self.training:
            self.remember(output.extras["backbone"], matches)
        return self.losses(output, matches)

    @torch.no_grad()
    def remember(self, backbone: Tensor, matches: Matches) -> None:
        """Add the features ``[B, C, H, W]`` at the positive points to the means of their classes.

        A class not seen yet keeps the random direction it was given.
        """
        cells, _ = grid_cells(self.points[matches.points], join_stride(self.spec), *backbone.shape[2:])
        column, row = cells.unbind(dim=1)
        features = F.normalize(backbone[matches.images, :, row, column].float(), dim=1)  # [P, C]
        seen = torch.cat((features, torch.ones_like(features[:, :1])), dim=1)  # [P, C + 1]
        seen = seen.new_zeros(len(self.feature_sums), seen.shape[1]).index_add(0, matches.labels, seen)
        sums, numbers = total_across_processes(seen).split((features.shape[1], 1), dim=1)  # [K, C], [K, 1]
        self.feature_sums += sums
        self.feature_counts += numbers.squeeze(1)
        counts = self.feature_counts[:, None]  # [K, 1]
        means = self.feature_sums / counts.clamp(min=1)
        self.classes.embeddings.copy_(torch.where(counts > 0, means, self.classes.embeddings))

    def start_from(self, features: Mapping[str, Tensor]) -> None:
        """Start the class logits from the prior on these features."""
        with torch.no_grad():
            self.classes.start_from(self(features).logits)

    def set_class_embeddings(self, embeddings: Tensor) -> None:
        """Compare classes with these text embeddings ``[K, text_dim]``, and start the projection from their PCs."""
        if self.from_images:
            super().set_class_embeddings(embeddings)
        self.classes.set_embeddings(embeddings)
