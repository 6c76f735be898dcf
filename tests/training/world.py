"""A small dataset of generated scenes with odd ids, cached in a few ways. Made in seconds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detheads.backbones.backbone import load_backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.data.scenes import generate

TRAIN, VAL = 10, 5
HEIGHT, WIDTH = 96, 128
NARROW = {
    "fcos": {"width": 16, "tower_blocks": 1},
    "split_tower": {"hidden": 16, "standard_blocks": 1, "depthwise_blocks": 1, "text_dim": 16},
}


@dataclass(frozen=True)
class World:
    """``data``: a COCO-style folder. ``caches``: a folder of caches by name, see :func:`make_world`."""

    data: Path
    caches: Path

    def cache(self, name: str) -> FeatureCache:
        return FeatureCache(self.caches / name)

    def annotations(self, split: str) -> dict[str, Any]:
        """The split as it stands in its file."""
        return load_annotations(self.data, split)


def make_world(folder: Path) -> World:
    """Caches of 96x128 pixels: ``train`` (with flips), ``val``, ``plain`` (training split without flips); of another
    size: ``square``; of another backbone: ``other``; of fewer classes: ``fewer``."""
    world = World(folder / "scenes", folder / "caches")
    generate(world.data, TRAIN, VAL, size=128, seed=11)
    for split in ("train", "val"):
        renumber(world.data, split)
    encoder = load_backbone("effnet_lite0", (HEIGHT, WIDTH))
    train, val = (read_dataset(world.data, split) for split in ("train", "val"))
    build_cache(train, encoder, world.caches / "train", flips=True)
    build_cache(train, encoder, world.caches / "plain")
    build_cache(val, encoder, world.caches / "val")
    build_cache(val, load_backbone("effnet_lite0", (HEIGHT, HEIGHT)), world.caches / "square")
    other = load_backbone("timm:test_vit", (HEIGHT, WIDTH), random_weights=True)
    build_cache(val, other, world.caches / "other")
    drop_classes(world.data, "val", folder / "fewer")
    build_cache(read_dataset(folder / "fewer", "val"), encoder, world.caches / "fewer")
    return world


def load_annotations(data: Path, split: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((data / "annotations" / f"instances_{split}.json").read_text("utf-8"))
    return document


def save_annotations(data: Path, split: str, document: dict[str, Any]) -> None:
    path = data / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def renumber(data: Path, split: str) -> None:
    """Give images and categories ids with gaps, images descending ones."""
    document = load_annotations(data, split)
    for image in document["images"]:
        image["id"] = 5000 - 13 * image["id"]
    for category in document["categories"]:
        category["id"] = 3 + 7 * category["id"]
    for annotation in document["annotations"]:
        annotation["image_id"] = 5000 - 13 * annotation["image_id"]
        annotation["category_id"] = 3 + 7 * annotation["category_id"]
    save_annotations(data, split, document)


def drop_classes(data: Path, split: str, folder: Path, keep: int = 3) -> None:
    """The same pictures with the first classes only."""
    document = load_annotations(data, split)
    document["categories"] = document["categories"][:keep]
    kept = {category["id"] for category in document["categories"]}
    document["annotations"] = [entry for entry in document["annotations"] if entry["category_id"] in kept]
    save_annotations(folder, split, document)
    (folder / split).symlink_to(data / split)
