"""Features that a GPU cached are those of the processor."""

from pathlib import Path

import pytest
import torch

from detheads.backbones.backbone import load_backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset
from tests.gpu.conftest import SIZE

FP16 = 2.0**-10
"""Spacing of fp16 numbers relative to their size: nearly equal numbers may be rounded this far apart."""
TF32 = 3e-2
"""Largest error of a map relative to its largest value when convolutions round their inputs to TF32 (10 bits), as cuDNN
does by default: 0.007 to 0.010 on these maps when that rounding is imitated on the processor."""


@pytest.mark.parametrize("name", ["effnet_lite0", "timm:test_vit"])
def test_features_cached_on_a_device_are_those_of_the_processor(
    name: str, device: torch.device, repeatable: None, dataset: Dataset, tmp_path: Path
) -> None:
    """The batch sizes differ, so that the processor's own sums differ, too."""
    backbone = load_backbone(name, SIZE, random_weights=name.startswith("timm:"))
    build_cache(dataset, backbone, tmp_path / "processor", flips=True, batch_size=8)
    build_cache(dataset, backbone.to(device), tmp_path / "device", flips=True, batch_size=3)
    expected, found = FeatureCache(tmp_path / "processor"), FeatureCache(tmp_path / "device")
    for flip in (False, True):
        reference = expected.features(range(len(expected)), [flip] * len(expected))
        for layer, values in found.features(range(len(found)), [flip] * len(found)).items():
            torch.testing.assert_close(values, reference[layer], rtol=FP16, atol=FP16 * float(reference[layer].std()))


def test_features_as_a_gpu_makes_them_by_default(
    device: torch.device, dataset: Dataset, cache: FeatureCache, tmp_path: Path
) -> None:
    build_cache(dataset, load_backbone("effnet_lite0", SIZE).to(device), tmp_path / "device", batch_size=3)
    reference = cache.features(range(len(cache)))
    for layer, values in FeatureCache(tmp_path / "device").features(range(len(cache))).items():
        largest = float(reference[layer].abs().max())
        assert float((values - reference[layer]).abs().max()) <= TF32 * largest
