"""What a backbone computes in is a setting of its cache; how many threads decode beside it is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detheads.backbones.backbone import load_backbone
from detheads.backbones.spec import Precision
from detheads.cache import images
from detheads.cache.builder import build_cache
from detheads.cache.manifest import read_manifest
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from tests.cache.conftest import HEIGHT, VIT, WIDTH


def _build(dataset: Path, folder: Path, precision: Precision = "fp32") -> FeatureCache:
    backbone = load_backbone(VIT, (HEIGHT, WIDTH), random_weights=True).computing_in(precision)
    build_cache(read_dataset(dataset, "train"), backbone, folder, batch_size=3)
    return FeatureCache(folder)


@pytest.mark.parametrize(("precision", "digits"), [("bf16", 2**-8), ("fp16", 2**-11)])
def test_mixed_precision_is_recorded_and_near_fp32(
    precision: Precision, digits: float, shared_dataset: Path, tmp_path: Path
) -> None:
    full, mixed = _build(shared_dataset, tmp_path / "fp32"), _build(shared_dataset, tmp_path / precision, precision)
    assert (full.manifest.settings.precision, mixed.manifest.settings.precision) == ("fp32", precision)
    assert full.manifest.settings != mixed.manifest.settings
    expected, found = (cache.features(range(len(cache)))["last"] for cache in (full, mixed))
    error = float((found - expected).norm() / expected.norm())
    assert digits / 8 < error < 8 * digits


def test_a_cache_of_fp32_is_described_as_before_there_was_a_choice(shared_dataset: Path, tmp_path: Path) -> None:
    cache = _build(shared_dataset, tmp_path / "cache")
    for name in ("manifest.json", "build.json"):
        settings = json.loads((tmp_path / "cache" / name).read_text("utf-8"))["settings"]
        assert settings.keys() >= {"dtype", "flips"} and "precision" not in settings
    assert read_manifest(tmp_path / "cache").settings == cache.manifest.settings


def test_precision_is_an_option_that_a_begun_cache_keeps(
    shared_dataset: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    line = ("cache", "build", shared_dataset, "--backbone", VIT, "--random-weights", "--size", f"{HEIGHT}x{WIDTH}")
    built = detheads(*line, "--precision", "bf16", "-o", tmp_path / "cache")
    assert built.code == 0 and "in fp16, computed in bf16" in built.err
    shown = detheads("cache", "info", tmp_path / "cache", "--json")
    assert json.loads(shown.out)["precision"] == "bf16"
    refused = detheads(*line, "-o", tmp_path / "cache")
    assert refused.code == 1 and "another settings.precision (bf16, not None)" in refused.err


def test_any_number_of_decoding_threads_makes_the_same_cache(
    shared_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for cores in (1, 7):
        monkeypatch.setattr(images, "available_cores", lambda cores=cores: cores)
        made.append(_build(shared_dataset, tmp_path / str(cores)))
    assert made[0].sha256 == made[1].sha256
    first, second = (cache.features(range(len(cache)))["last"] for cache in made)
    assert torch.equal(first, second)
