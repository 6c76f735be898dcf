"""A small dataset of odd pictures, two tiny backbones, and ways to build caches of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.backbones.backbone import Backbone, load_backbone
from detheads.cache import plan
from detheads.cache.builder import settings_for

HEIGHT, WIDTH = 64, 96
VIT, CNN = "timm:test_vit", "timm:test_efficientnet"
SIZES = ((100, 60), (31, 200), (64, 64), (7, 3), (150, 149), (96, 64), (1, 1), (640, 20), (90, 90), (50, 80))


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Smooth random colours without any symmetry."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write_dataset(folder: Path, count: int = len(SIZES)) -> Path:
    """A COCO-style folder: every third image without objects, crowds among the boxes, spaces and umlauts in names."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train" / "größer").mkdir(parents=True)
    random = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        name = f"größer/bild {number}.png" if number % 2 else f"plain-{number}.png"
        picture(number, width, height).save(folder / "train" / name)
        images.append({"id": 1000 - 7 * number, "file_name": name, "width": width, "height": height})
        for _ in range(number % 3):
            x, y = random.uniform(0, 0.6, 2) * (width, height)
            box = [x, y, random.uniform(0.1, 0.4) * width, random.uniform(0.1, 0.4) * height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": images[-1]["id"],
                    "category_id": (3, 90)[len(annotations) % 2],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(len(annotations) % 4 == 1),
                }
            )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "Eule"}],
    }
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shared_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images; not to be changed."""
    return write_dataset(tmp_path_factory.mktemp("data") / "ten pictures")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Ten images, to be broken."""
    return write_dataset(tmp_path / "set")


@pytest.fixture(scope="session")
def backbones() -> dict[str, Backbone]:
    """Not to be changed. The transformer gives block 1 too."""
    return {
        VIT: load_backbone(VIT, (HEIGHT, WIDTH), random_weights=True, blocks=(1,)),
        CNN: load_backbone(CNN, (HEIGHT, WIDTH), random_weights=True),
    }


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> int:
    """Shards of three images of the transformer with one layer in fp16, so that ten images make four."""
    settings = settings_for(load_backbone(VIT, (HEIGHT, WIDTH), random_weights=True))
    monkeypatch.setattr(plan, "SHARD_BYTES", 3 * settings.bytes_per_image)
    return 3


@pytest.fixture
def build(detheads: Callable[..., Any]) -> Callable[..., Any]:
    """``build(dataset, cache, "--flips")``: the command line with the small transformer."""

    def run(data: Path, cache: Path, *options: object) -> Any:
        defaults = {"--backbone": VIT, "--size": f"{HEIGHT}x{WIDTH}", "--batch": 2}
        rest = [part for name, value in defaults.items() if name not in options for part in (name, value)]
        return detheads("cache", "build", data, "-o", cache, "--random-weights", "--json", *rest, *options)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a cache with its bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
