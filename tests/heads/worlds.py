"""Feature specs, random features and narrow configurations that suit any head."""

import torch

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.headkit import checks, registry
from detheads.headkit.checks import random_features as random_features
from detheads.headkit.checks import total_loss as total_loss
from detheads.headkit.checks import with_blocks as with_blocks
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


NO_SIZES = {("plain", "levels")}
"""Options of heads that are whole numbers, and with a quarter of which a head would be another one."""


def small_config(entry: registry.Entry) -> dict[str, int]:
    """A quarter of every whole-number option that is a size: fewer channels, fewer blocks."""
    return {
        name: max(1, value // 4)
        for name, value in registry.defaults(entry).items()
        if type(value) is int and value > 1 and (entry.name, name) not in NO_SIZES
    }


def small_head(entry: registry.Entry, spec: FeatureSpec, classes: int = CLASSES, seed: int = 0) -> Head:
    torch.manual_seed(seed)
    return registry.build(entry.name, with_blocks(entry, spec), classes, small_config(entry)).eval()


def objects(spec: FeatureSpec) -> Targets:
    """Objects of several sizes, the whole picture and a tiny one included."""
    return checks.objects(spec, CLASSES)


def no_objects() -> Targets:
    return Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
