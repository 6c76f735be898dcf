"""What a backbone gives and a head is built for: feature maps, their channels and strides. Torch-free."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureLayer:
    """One feature map of a backbone: ``[B, channels, H / stride, W / stride]``."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class FeatureSpec:
    """What a head is built for: the input size and the layers it receives.

    ``main`` names the layers that together are *the* feature map (one for a ViT, several for a CNN);
    further layers serve heads that read intermediate blocks.
    """

    layers: tuple[FeatureLayer, ...]
    main: tuple[str, ...]
    height: int
    width: int

    def layer(self, name: str) -> FeatureLayer:
        """The layer of that name; ``KeyError`` when there is none."""
        return {layer.name: layer for layer in self.layers}[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)

    @property
    def main_layers(self) -> tuple[FeatureLayer, ...]:
        return tuple(self.layer(name) for name in self.main)
