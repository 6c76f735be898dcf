"""A complete toy world, made in a second: odd pictures, a run of a real head with random weights, and boxes that this
head finds in the pictures, so that its mAP is neither 0 nor 1.

Importing this module loads no torch: what was made once can be looked at without it (``tests/without_torch.py``).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from detheads.data.dataset import Category
from detheads.foundation.manifest import ONLY_HEAD, ParityEntry, Thresholds

if TYPE_CHECKING:
    from detheads.export.graph import DetectorGraph
    from detheads.export.live import LiveDetector

MADE = os.environ.get("DETHEADS_TOY")
"""A toy world that was made elsewhere (see ``tests/without_torch.py``)."""
AP_TOLERANCE = 2e-3 if MADE else 1e-9
"""Of an AP measured here from that of the proof. Pillow 12 and 13 resize some of the pictures to other pixels (1 of 255
grey levels in under 1 % of them), which moved this AP by 6e-4."""
BACKBONE = "timm:test_vit"
SIDE = 160
CATEGORIES = (Category(3, "cat"), Category(17, "dog"), Category(90, "größte Eule"))
SIZES = ((97, 301), (400, 61), (160, 160), (33, 200), (257, 131), (640, 480), (64, 64))
THRESHOLDS = Thresholds(max_detections=20, candidates=200)


@dataclass(frozen=True)
class Toy:
    """``run``: a training run. ``data``: a COCO-style dataset with the split ``val``."""

    run: Path
    data: Path

    @property
    def images(self) -> Path:
        return self.data / "val"

    @property
    def annotations(self) -> Path:
        return self.data / "annotations" / "instances_val.json"


def bundle_toy(toy: Toy, target: Path) -> None:
    """Export it as a verified bundle without an engine."""
    from detheads.export.pipeline import export_run
    from detheads.export.proof import Proof, proof_dataset

    result = export_run(toy.run, target, proof=Proof(proof_dataset(toy.data)), thresholds=THRESHOLDS, tensorrt=False)
    assert result.bundle == target, result.to_dict()


def make_toy(folder: Path) -> Toy:
    toy = Toy(folder / "run", folder / "pictures of it")
    write_run(toy.run, seed=0)
    write_dataset(toy, seed=0)
    return toy


def write_run(run: Path, seed: int) -> None:
    import torch

    from detheads.backbones.backbone import load_backbone
    from detheads.headkit import registry
    from detheads.training.checkpoint import Checkpoint, save_checkpoint

    backbone = load_backbone(BACKBONE, (SIDE, SIDE), random_weights=True)
    torch.manual_seed(seed)
    config = {"width": 16, "tower_blocks": 1, "assigner": "fcos"}
    head = registry.build("fcos", backbone.feature_spec, len(CATEGORIES), config).eval()
    for name, parameter in head.named_parameters():
        if name.startswith("classes"):
            torch.nn.init.normal_(parameter, mean=-0.4 if name.endswith("bias") else 0.0, std=0.15)
        if name.startswith(("distances", "centerness")) and name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    checkpoint = Checkpoint(
        head_name="fcos",
        head_config=config,
        feature_spec=backbone.feature_spec,
        categories=CATEGORIES,
        backbone_name=BACKBONE,
        backbone_timm_name=backbone.spec.timm_name,
        backbone_licence=backbone.spec.licence,
        backbone_weights_sha256=None,
        cache_sha256="0" * 64,
        dataset_sha256="1" * 64,
        metrics={"AP": 0.25},
        tensors=dict(head.state_dict()),
    )
    run.mkdir(parents=True, exist_ok=True)
    save_checkpoint(run / "best.safetensors", checkpoint)


def write_dataset(toy: Toy, seed: int) -> None:
    random = np.random.default_rng(seed)
    live = live_detector(toy.run)
    images, annotations = [], []
    toy.images.mkdir(parents=True)
    for number, (width, height) in enumerate(SIZES):
        small = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        picture = small.resize((width, height), Image.Resampling.BICUBIC)
        name = f"bild {number}.png"
        picture.save(toy.images / name)
        images.append({"id": 100 + 7 * number, "file_name": name, "width": width, "height": height})
        found = live.detect(picture)
        for (x1, y1, x2, y2), label in list(zip(found.boxes.tolist(), found.labels.tolist(), strict=True))[1:12:2]:
            shift = random.uniform(0, 0.15) * (x2 - x1)
            if x2 - x1 - shift > 1 and y2 - y1 > 1:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": images[-1]["id"],
                        "category_id": CATEGORIES[label].id,
                        "bbox": [x1 + shift, y1, x2 - x1 - shift, y2 - y1],
                        "area": (x2 - x1 - shift) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
    toy.annotations.parent.mkdir()
    categories = [{"id": category.id, "name": category.name} for category in CATEGORIES]
    document = {"images": images, "annotations": annotations, "categories": categories}
    toy.annotations.write_text(json.dumps(document), encoding="utf-8")


def live_detector(run: Path, thresholds: Thresholds = THRESHOLDS) -> "LiveDetector":
    import torch

    from detheads.export.live import LiveDetector
    from detheads.export.source import load_trained

    trained = load_trained(run)
    return LiveDetector(
        trained.backbone, trained.head, trained.checkpoint.feature_spec, thresholds, torch.device("cpu")
    )


def ship(graph: "DetectorGraph", path: Path, thresholds: Thresholds = THRESHOLDS) -> ParityEntry:
    """Write the FP32 file of a graph with one head, without a bundle around it; returns its self-check."""
    from detheads.export.onnx_export import check_parity, write_onnx
    from detheads.export.tail import with_suppression
    from detheads.export.trace import trace_dense

    dense = trace_dense(graph)
    parity = check_parity(graph, dense)
    write_onnx(with_suppression(dense, thresholds, graph.spec.height, graph.spec.width), path, {})
    return parity[ONLY_HEAD]
