"""What a backbone gives and a head is built for: feature maps, their channels and strides. Torch-free."""

from dataclasses import dataclass, replace

DEPTH = "depth"
"""Name of the one layer that no backbone gives: an inverse depth map ``[B, 1, H / stride, W / stride]`` of its own
making, from 0 (unknown) to 1 (nearest). A cache may hold it beside the features; a graph never sees it."""


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
    def computed(self) -> "FeatureSpec":
        """Without what a cache holds besides: the layers that a backbone gives, and a graph has."""
        return replace(self, layers=tuple(layer for layer in self.layers if layer.name != DEPTH))

    @property
    def join_stride(self) -> int:
        """Stride of the grid on which the main layers are joined: 16, or that of the only layer."""
        strides = [layer.stride for layer in self.main_layers]
        return 16 if 16 in strides else strides[len(strides) // 2]

    @property
    def main_layers(self) -> tuple[FeatureLayer, ...]:
        return tuple(self.layer(name) for name in self.main)
