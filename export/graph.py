"""Backbone and heads as one module: raw pixels in, dense predictions out. What is traced and shipped."""

from collections.abc import Mapping

from torch import Tensor, nn

from detheads.backbones.backbone import Backbone
from detheads.backbones.features import FeatureSpec
from detheads.export.names import DENSE_NAMES, decision_names, feature_name, prefix_of
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.foundation.manifest import ONLY_HEAD
from detheads.headkit.contract import Head
from detheads.ops.decisions import recording
from detheads.ops.scores import detection_scores

Dense = tuple[Tensor, Tensor]
"""Boxes ``[B, N, 4]`` (xyxy, input pixels) and scores ``[B, N, K]`` in 0..1, before suppression."""


class DetectorGraph(nn.Module):
    """The graph up to suppression, which :mod:`detheads.export.tail` joins to the traced file.

    Args:
        backbone: frozen encoder for one input size; it runs once for all heads.
        heads: a trained head for the features of that encoder, or several by name.
        spec: the features the heads were trained on. Depth maps that lay beside them taught; the graph has none.

    Raises:
        UserError: when the backbone does not give the features that the heads need.
    """

    def __init__(self, backbone: Backbone, heads: Head | Mapping[str, Head], spec: FeatureSpec) -> None:
        super().__init__()
        self.backbone, self.spec = backbone, spec.computed
        _require_same_features(backbone, self.spec)
        by_name = {ONLY_HEAD: heads} if isinstance(heads, Head) else dict(heads)
        self.names = list(by_name)
        self.heads = nn.ModuleList(by_name.values())  # a ModuleDict refuses names such as "training"
        self.eval()

    def dense(self, images: Tensor, name: str = ONLY_HEAD) -> Dense:
        """uint8 RGB ``[B, 3, H, W]`` -> the dense predictions of the head of that name."""
        return _dense(self.head(name), self.backbone(self.backbone.normalise(images)))

    def head(self, name: str = ONLY_HEAD) -> nn.Module:
        """The head of that name."""
        return self.heads[self.names.index(name)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """For tracing: of each head its dense predictions, what its decisions chose between and chose; the features."""
        features = self.backbone(self.backbone.normalise(images))
        found: list[Tensor] = []
        for head in self.heads:
            with recording() as journal:
                found += _dense(head, features)
            found += [tensor for one in journal.decisions for tensor in (one.values, one.choice)]
        return *found, *(features[layer] for layer in self.spec.names)

    def output_names(self, images: Tensor) -> list[str]:
        """Names of what :meth:`forward` gives."""
        features = self.backbone(self.backbone.normalise(images))
        names: list[str] = []
        for name, head in zip(self.names, self.heads, strict=True):
            prefix = prefix_of(name)
            with recording() as journal:
                head(features)
            names += [prefix + each for each in DENSE_NAMES]
            names += [each for number in range(len(journal.decisions)) for each in decision_names(number, prefix)]
        return [*names, *map(feature_name, self.spec.names)]


def _dense(head: nn.Module, features: Mapping[str, Tensor]) -> Dense:
    output = head(features)
    return output.boxes, detection_scores(output.logits, output.quality)


def _require_same_features(backbone: Backbone, wanted: FeatureSpec) -> None:
    found = backbone.feature_spec
    if (found.height, found.width) != (wanted.height, wanted.width):
        raise UserError(
            f"the head was trained at {sides(wanted.height, wanted.width)} pixels, "
            f"the backbone is built for {sides(found.height, found.width)}."
        )
    for layer in wanted.layers:
        if layer not in found.layers:
            raise UserError(
                f"the head needs features {layer.name!r} with {layer.channels} channels at stride {layer.stride}, "
                f"which {backbone.spec.name} does not give; export with the backbone it was trained on."
            )
