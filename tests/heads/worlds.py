"""Feature specs, random features and narrow configurations that suit any head."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.targets.objects import Targets

CLASSES = 5


def _vit(height: int, width: int) -> FeatureSpec:
    return FeatureSpec((FeatureLayer("last", 48, 16),), ("last",), height, width)


def _cnn(height: int, width: int) -> FeatureSpec:
    layers = (FeatureLayer("stride8", 12, 8), FeatureLayer("stride16", 20, 16), FeatureLayer("stride32", 36, 32))
    return FeatureSpec(layers, ("stride8", "stride16", "stride32"), height, width)


SPECS = {
    "vit-square": _vit(128, 128),
    "vit-wide": _vit(80, 208),
    "vit-patch14": FeatureSpec((FeatureLayer("last", 24, 14),), ("last",), 98, 70),
    "cnn-square": _cnn(128, 128),
    "cnn-tall": _cnn(224, 96),
}


def with_blocks(entry: registry.Entry, spec: FeatureSpec) -> FeatureSpec:
    """The same features with the intermediate blocks that the head reads besides."""
    main = spec.main_layers[-1]
    missing = [block for block in entry.head.blocks if f"block{block}" not in spec.names]
    blocks = tuple(FeatureLayer(f"block{block}", main.channels, main.stride) for block in missing)
    return replace(spec, layers=blocks + spec.layers)


def small_config(entry: registry.Entry) -> dict[str, int]:
    """A quarter of every whole-number option: fewer channels, fewer blocks."""
    return {
        name: max(1, value // 4) for name, value in registry.defaults(entry).items() if type(value) is int and value > 1
    }


def small_head(entry: registry.Entry, spec: FeatureSpec, classes: int = CLASSES, seed: int = 0) -> Head:
    torch.manual_seed(seed)
    return registry.build(entry.name, with_blocks(entry, spec), classes, small_config(entry)).eval()


def random_features(spec: FeatureSpec, batch: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.name: scale
        * torch.randn(
            batch, layer.channels, spec.height // layer.stride, spec.width // layer.stride, generator=generator
        )
        for layer in spec.layers
    }


def objects(spec: FeatureSpec) -> Targets:
    """Objects of several sizes, the whole picture and a tiny one included."""
    height, width = float(spec.height), float(spec.width)
    boxes = torch.tensor(
        [
            [0, 0, width, height],
            [width * 0.1, height * 0.2, width * 0.6, height * 0.9],
            [width * 0.5, height * 0.1, width * 0.8, height * 0.4],
            [20.0, 20.0, 44.0, 50.0],
            [9.0, 40.0, 19.0, 51.0],
        ]
    )
    return Targets(boxes, torch.arange(5) % CLASSES)


def no_objects() -> Targets:
    return Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def total_loss(head: Head, features: dict[str, Tensor], targets: Sequence[Targets]) -> Tensor:
    return torch.stack(list(head.loss(head(features), targets).values())).sum()
