"""Small valid inputs of every kind, made in a second or two."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from detheads.foundation import atomic
from detheads.foundation.contents import MANIFEST_NAME
from detheads.foundation.manifest import BundleManifest

NAMES = {"train": ["a.jpg", "sub/b 2.png"], "val": ["c.png"]}
CLASSES = ["cat", "größte Eule"]
SIDE = 32


@dataclass(frozen=True, repr=False)
class Seeds:
    """Folders and files; those who change one put it back."""

    root: Path

    coco: Path
    yolo: Path
    pictures: list[Path]
    cache: Path
    run: Path
    bundle: Path
    odd: list[Path]
    """A pipe, a loop of links, a device, an empty folder and an empty file."""


def picture(number: int, width: int = 48, height: int = 40) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def write_coco(folder: Path) -> Path:
    (folder / "annotations").mkdir(parents=True)
    for split, names in NAMES.items():
        images, annotations = [], []
        for number, name in enumerate(names, start=1):
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(path)
            images.append({"id": number, "file_name": name, "width": 48, "height": 40})
            for index in range(2):
                box = [4.0 + index, 5.0, 20.5, 18.0]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 3 + index,
                        "bbox": box,
                        "area": 369.0,
                        "iscrowd": 0,
                        "segmentation": [[4, 5, 24, 5, 24, 23]],
                    }
                )
        categories = [{"id": 3 + index, "name": name} for index, name in enumerate(CLASSES)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def write_yolo(folder: Path) -> Path:
    for split, names in NAMES.items():
        for number, name in enumerate(names, start=1):
            path = folder / "images" / split / name
            label = (folder / "labels" / split / name).with_suffix(".txt")
            for file in (path, label):
                file.parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(path)
            label.write_text("0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.3 0.1 0.3 0.4\n")
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames:\n  0: {CLASSES[0]}\n  1: {CLASSES[1]}\n"
    )
    return folder


def write_bundle(folder: Path) -> Path:
    """A bundle whose graph gives the same two boxes for every picture."""
    folder.mkdir(parents=True)
    manifest: dict[str, Any] = {
        "schema_version": 2,
        "name": "seed",
        "classes": [{"id": 3 + index, "name": name} for index, name in enumerate(CLASSES)],
        "input": {"height": SIDE, "width": SIDE},
        "thresholds": {},
        "backbone": {"name": "b", "timm_name": "b", "licence": "MIT", "weights_sha256": None},
        "head": {"name": "fcos", "config": {}, "parameters": 1},
        "precision": "fp32",
        "hashes": {"checkpoint": None},
        "tools": {},
        "onnx": {
            "file": "model.onnx",
            "sha256": "0" * 64,
            "opset": 18,
            "bytes": 1,
            "parity": {"batch": 1, "dense_boxes": 0.0, "relative_boxes": 0.0, "best_boxes": 0.0, "dense_scores": 0.0},
        },
        "engines": [],
    }
    boxes = np.array([[4, 4, 20, 24], [1, 2, 30, 31]], dtype=np.float32)
    constants = {
        "one_boxes": boxes[None],
        "one_scores": np.array([[0.9, 0.4]], dtype=np.float32),
        "one_labels": np.array([[0, 1]], dtype=np.int32),
        "zero": np.array([0]),
        "first": np.array([1]),
        "row": np.array([2]),
        "box": np.array([2, 4]),
    }
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "box"], ["box_shape"], axis=0),
        helper.make_node("Concat", ["batch", "row"], ["row_shape"], axis=0),
        helper.make_node("Expand", ["one_boxes", "box_shape"], ["boxes"]),
        helper.make_node("Expand", ["one_scores", "row_shape"], ["scores"]),
        helper.make_node("Expand", ["one_labels", "row_shape"], ["labels"]),
    ]
    graph = helper.make_graph(
        nodes,
        "seed",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 2, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("labels", TensorProto.INT32, ["batch", 2]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, BundleManifest.model_validate(manifest).graph_metadata())
    onnx.save(model, folder / "model.onnx")
    manifest["onnx"] |= {
        "sha256": atomic.sha256_of(folder / "model.onnx"),
        "bytes": (folder / "model.onnx").stat().st_size,
    }
    atomic.write_json(folder / MANIFEST_NAME, BundleManifest.model_validate(manifest).model_dump(mode="json"))
    return folder


def write_pictures(folder: Path) -> list[Path]:
    """A picture of each format that is read, and modes that are converted."""
    folder.mkdir(parents=True)
    image = picture(1)
    made = []
    for suffix in ("jpg", "png", "bmp", "gif", "webp", "tiff"):
        made.append(folder / f"a.{suffix}")
        image.save(made[-1])
    for mode in ("L", "RGBA", "P", "CMYK", "I;16", "1"):
        suffix = "tiff" if mode == "CMYK" else "png"
        made.append(folder / f"{mode.replace(';', '-')}.{suffix}")
        (image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)).save(made[-1])
    turned = Image.Exif()
    turned[0x0112] = 6
    made.append(folder / "turned.jpg")
    image.save(made[-1], exif=turned)
    return made


def write_odd(folder: Path) -> list[Path]:
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
    (folder / "empty.py").touch()
    return [*sorted(folder.iterdir()), Path("/dev/zero")]


def write_cache_and_run(root: Path, data: Path) -> tuple[Path, Path]:
    """A cache of two pictures and a head of an epoch on it."""
    from detheads.backbones.backbone import load_backbone
    from detheads.cache.builder import build_cache
    from detheads.cache.reader import FeatureCache
    from detheads.data import read_dataset
    from detheads.training.config import TrainConfig
    from detheads.training.trainer import Trainer

    backbone = load_backbone("timm:test_vit", (SIDE, SIDE), random_weights=True)
    build_cache(read_dataset(data, "train"), backbone, root / "cache")
    cache = FeatureCache(root / "cache")
    (cache.folder / ".checked").touch()  # else it would appear when the shard has become old enough
    options = {"width": "16", "tower_blocks": "1"}
    with contextlib.redirect_stdout(None):
        Trainer("fcos", options, cache, cache, root / "run", TrainConfig(epochs=1, batch=2, lr=1e-3)).fit()
    return root / "cache", root / "run"


def make_seeds(root: Path) -> Seeds:
    coco = write_coco(root / "coco")
    cache, run = write_cache_and_run(root, coco)
    return Seeds(
        root,
        coco,
        write_yolo(root / "yolo"),
        write_pictures(root / "pictures"),
        cache,
        run,
        write_bundle(root / "seed.detheads"),
        write_odd(root / "odd"),
    )
