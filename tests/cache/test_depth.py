"""Depth maps in a cache: where they lie, what they leave as it is, who needs them, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from detheads.backbones.backbone import Backbone
from detheads.backbones.features import DEPTH
from detheads.cache.builder import build_cache, settings_for
from detheads.cache.depth import DepthMaps
from detheads.cache.joined import open_caches
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset, read_dataset
from detheads.data.dataset import ImageRecord
from detheads.export.graph import DetectorGraph
from detheads.export.source import load_trained
from detheads.foundation.errors import UserError
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer
from tests.cache.conftest import HEIGHT, VIT, WIDTH

STRIDE = 16


def write_maps(folder: Path, dataset: Dataset) -> Path:
    """A map of each picture, every second one as a picture of 16 bits: nearer to the right, with a step below."""
    for number, record in enumerate(dataset.images):
        ramp = np.tile(np.linspace(100, 200, record.width), (record.height, 1))
        ramp[record.height // 2 :] *= 2
        path = folder / record.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 2:
            Image.fromarray(ramp.astype(np.uint16)).save(path.with_suffix(".png"))
        else:
            np.save(path.with_suffix(".npy"), ramp)
    return folder


@pytest.fixture(scope="module")
def data(shared_dataset: Path) -> Dataset:
    return read_dataset(shared_dataset, "train")


@pytest.fixture(scope="module")
def maps(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_maps(tmp_path_factory.mktemp("maps"), data)


@pytest.fixture(scope="module")
def caches(
    data: Dataset, maps: Path, backbones: dict[str, Backbone], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, FeatureCache]:
    """With depth and mirrored images, and without."""
    folder = tmp_path_factory.mktemp("depth caches")
    deep = DepthMaps(maps, data.images)
    build_cache(data, backbones[VIT], folder / "deep", flips=True, depth=deep)
    build_cache(data, backbones[VIT], folder / "flat", flips=True)
    return {name: FeatureCache(folder / name) for name in ("deep", "flat")}


def _on_grid(folder: Path, values: NDArray[Any], size: tuple[int, int], backbone: Backbone) -> NDArray[np.float32]:
    """The layer that a map of a picture of this size becomes."""
    np.save(folder / "a.npy", values)
    maps = DepthMaps(folder, [record := ImageRecord(1, "a.jpg", folder / "a.jpg", *size)])
    return maps.on_grid([record], settings_for(backbone, depth=maps))[0, 0].numpy()


def test_a_cell_is_the_mean_of_its_pixels_as_a_share_of_the_nearest(
    tmp_path: Path, backbones: dict[str, Backbone]
) -> None:
    values = np.random.default_rng(0).uniform(10, 50, (HEIGHT, WIDTH))
    cells = values.reshape(HEIGHT // STRIDE, STRIDE, WIDTH // STRIDE, STRIDE).mean(axis=(1, 3))
    found = _on_grid(tmp_path, values, (WIDTH, HEIGHT), backbones[VIT])
    np.testing.assert_allclose(found, cells / values.max(), rtol=1e-5)
    smaller = _on_grid(tmp_path, cells, (WIDTH, HEIGHT), backbones[VIT])
    np.testing.assert_allclose(smaller, cells / cells.max(), rtol=1e-5)


def test_padding_and_what_is_no_depth_are_unknown(tmp_path: Path, backbones: dict[str, Backbone]) -> None:
    values = np.full((64, 32), 7.0)
    values[:16] = (np.nan, np.inf, -1.0, 0.0) * 8
    values[16:32, :6] = 0.0  # less than half of a cell
    found = _on_grid(tmp_path, values, (32, 64), backbones[VIT])  # columns 2 and 3 of six, the rest is padding
    assert found.tolist() == [[0.0] * 6] + 3 * [[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]


def test_depth_lies_beside_features_that_stay_what_they_are(caches: dict[str, FeatureCache]) -> None:
    deep, flat = caches["deep"], caches["flat"]
    assert deep.feature_spec.names == (*flat.feature_spec.names, DEPTH)
    assert deep.feature_spec.computed == flat.feature_spec
    with_depth, plain = deep.features(range(len(deep))), flat.features(range(len(flat)))
    assert all(torch.equal(with_depth[name], values) for name, values in plain.items())
    mirrored = deep.features(range(len(deep)), [True] * len(deep))[DEPTH]
    assert torch.equal(mirrored, with_depth[DEPTH].flip(3))
    assert with_depth[DEPTH].shape == (len(deep), 1, HEIGHT // STRIDE, WIDTH // STRIDE)
    assert (with_depth[DEPTH].amax(dim=(1, 2, 3)) > 0.8).sum() == 8  # two are thinner than half a cell
    assert "depth_sha256" not in (flat.folder / "manifest.json").read_text()


def test_features_beside_other_maps_are_others(
    data: Dataset, maps: Path, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    first = DepthMaps(maps, data.images).sha256
    others = write_maps(tmp_path / "maps", data)
    assert DepthMaps(others, data.images).sha256 == first
    np.save((others / data.images[0].file_name).with_suffix(".npy"), np.ones((60, 100)))
    assert DepthMaps(others, data.images).sha256 != first


def test_caches_with_and_without_depth_are_no_training_set_together(caches: dict[str, FeatureCache]) -> None:
    with pytest.raises(UserError, match=r"differ in their depth maps \(--depth\)"):
        open_caches([caches["deep"].folder, caches["flat"].folder])


def test_what_learned_from_depth_is_validated_and_exported_without_it(
    caches: dict[str, FeatureCache], tmp_path: Path
) -> None:
    options = {"width": 8, "tower_blocks": 0}
    trainer = Trainer("depth_fusion", options, caches["deep"], caches["flat"], tmp_path, TrainConfig(epochs=1))
    assert "learns depth from the cache's depth maps" in trainer.head.remark
    trainer.fit()
    trained = load_trained(tmp_path)
    assert trained.checkpoint.feature_spec == caches["deep"].feature_spec
    graph = DetectorGraph(trained.backbone, trained.head, trained.checkpoint.feature_spec)
    pixels = torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    assert not any(DEPTH in name for name in graph.output_names(pixels))
    boxes, scores = graph.dense(pixels)
    assert boxes.shape[1] == scores.shape[1] > 0


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.unlink(), r"holds no depth map of plain-0.png: neither plain-0.npy nor plain-0.png"),
        (
            lambda path: np.save(path, np.ones((100, 60))),
            "has 60x100 numbers, its picture plain-0.png has 100x60 pixels",
        ),
        (lambda path: np.save(path, np.ones((3, 60, 100))), "does not hold one table of numbers"),
        (lambda path: np.save(path, np.full((60, 100), "far")), "does not hold one table of numbers"),
        (lambda path: np.save(path, np.full((60, 100), None)), "it holds Python objects"),
        (lambda path: path.write_bytes(b"depth"), "is not a file of arrays"),
    ],
)
def test_a_map_that_is_none_stops_the_build(
    spoil: Callable[[Path], object], sentence: str, shared_dataset: Path, data: Dataset, build: Any, tmp_path: Path
) -> None:
    maps = write_maps(tmp_path / "maps", data)
    spoil(maps / "plain-0.npy")
    failed = build(shared_dataset, tmp_path / "cache", "--depth", maps, "--limit", 1)
    assert failed.code == 1
    assert sentence.replace("\\", "") in failed.err
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_a_colour_picture_is_no_map(shared_dataset: Path, data: Dataset, build: Any, tmp_path: Path) -> None:
    maps = write_maps(tmp_path / "maps", data)
    (maps / "plain-0.npy").unlink()
    Image.new("RGB", (100, 60)).save(maps / "plain-0.png")
    failed = build(shared_dataset, tmp_path / "cache", "--depth", maps, "--limit", 1)
    assert (failed.code, "has pixels of type RGB, not one channel of 8 or 16 bits" in failed.err) == (1, True)


def test_a_cache_goes_on_with_its_own_maps_only(
    shared_dataset: Path, data: Dataset, build: Any, tmp_path: Path
) -> None:
    maps, cache = write_maps(tmp_path / "maps", data), tmp_path / "cache"
    assert build(shared_dataset, cache, "--depth", maps, "--limit", 2).code == 0
    assert json.loads(build(shared_dataset, cache, "--depth", maps, "--limit", 2).out)["extracted"] == 0
    np.save(maps / "plain-0.npy", np.ones((60, 100)))
    failed = build(shared_dataset, cache, "--depth", maps, "--limit", 2)
    assert failed.code == 1
    assert "depth_sha256" in failed.err


def test_workers_read_no_maps(shared_dataset: Path, maps: Path, build: Any, tmp_path: Path) -> None:
    failed = build(shared_dataset, tmp_path / "cache", "--depth", maps, "--workers", 2)
    assert (failed.code, "--workers reads no depth maps" in failed.err) == (1, True)
