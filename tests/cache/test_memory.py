"""Reading a cache costs neither memory nor open files that grow with it."""

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from detheads.cache.manifest import CacheManifest, LayerEntry, Settings, ShardEntry, image_entry
from detheads.cache.reader import FeatureCache
from detheads.foundation import atomic
from detheads.foundation.geometry import Letterbox
from tests.cache.conftest import write_dataset

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")

ROWS, CHANNELS, GRID = 80, 256, 32


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def large_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 42 MB, made without a backbone."""
    folder = tmp_path_factory.mktemp("large")
    settings = Settings(
        backbone="none",
        timm_name="none",
        licence="none",
        weights_sha256=None,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        height=16 * GRID,
        width=16 * GRID,
        layers=(LayerEntry(name="last", channels=CHANNELS, stride=16),),
        main=("last",),
        dtype="fp16",
        flips=False,
    )
    shards = []
    for number in range(2):
        path = folder / f"shard-{number:05d}.safetensors"
        rows = torch.arange(number * ROWS, (number + 1) * ROWS, dtype=torch.float16)
        save_file({"last": rows[:, None, None, None].repeat(1, CHANNELS, GRID, GRID)}, path)
        shards.append(
            ShardEntry(
                file=path.name,
                sha256=atomic.sha256_of(path),
                count=ROWS,
                pictures=tuple(f"picture {row}" for row in range(number * ROWS, (number + 1) * ROWS)),
            )
        )
    names = [(index, f"{index}.jpg") for index in range(2 * ROWS)]
    document = {
        "images": [{"id": index, "file_name": name, "width": 50, "height": 40} for index, name in names],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    atomic.write_json(folder / "annotations.json", document)
    letterbox = Letterbox.fit(50, 40, 16 * GRID, 16 * GRID)
    manifest = CacheManifest(
        settings=settings,
        dataset="none",
        split="train",
        annotations_sha256=atomic.sha256_of(folder / "annotations.json"),
        images=tuple(image_entry(index, name, f"picture {index}", letterbox) for index, name in names),
        shards=tuple(shards),
        detheads_version="0",
    )
    atomic.write_json(folder / "manifest.json", manifest.model_dump(mode="json"))
    return folder


def test_memory_does_not_grow_with_the_images_read(large_cache: Path) -> None:
    cache = FeatureCache(large_cache)
    before = peak = 0
    for index in range(0, len(cache), 4):
        features = cache.features(range(index, index + 4))["last"]
        assert features[:, 0, 0, 0].tolist() == list(range(index, index + 4))
        if index < ROWS // 2:
            before = max(before, resident_bytes())  # the allocator takes its share in the first batches
        peak = max(peak, resident_bytes())
    assert sum((large_cache / shard.file).stat().st_size for shard in cache.manifest.shards) > 80e6
    assert peak - before < 20e6
    assert str(large_cache) not in Path("/proc/self/maps").read_text()


def test_a_cache_may_have_more_shards_than_a_process_may_open_files(
    tmp_path: Path, build: Callable[..., Any], small_shards: int
) -> None:
    cache_folder = tmp_path / "cache"
    assert build(write_dataset(tmp_path / "set", count=60), cache_folder).code == 0
    cache = FeatureCache(cache_folder)
    assert len(cache.manifest.shards) == 20
    opened = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 5, hard))
        assert len(cache.features(range(60))["last"]) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [link for link in links if "shard-" in link]
