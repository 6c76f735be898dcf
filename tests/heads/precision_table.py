"""Every registered head in every precision, on a small dataset: ``python -m tests.heads.precision_table``.

Heads have random weights, made lively; the objects of the dataset are some of the boxes that the head itself finds, so
that its AP is neither 0 nor 1. What counts is what a precision changes, not how well such a head detects.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detheads.analytical.config import PRESETS
from detheads.backbones.backbone import load_backbone
from detheads.data.dataset import Category, Dataset, ImageRecord, Objects
from detheads.evaluation.predict import default_thresholds
from detheads.export.bundle_writer import Master, trace_master, write_graph
from detheads.export.live import LiveDetector
from detheads.export.precision.calibration import Calibration, choose_calibration
from detheads.export.precision.convert import convert
from detheads.export.precision.plan import Plan
from detheads.export.proof import Proof
from detheads.export.source import Trained, load_trained
from detheads.export.verify import Reference, compare, measure
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import ONLY_HEAD, Precision
from detheads.headkit import registry
from detheads.training.checkpoint import Checkpoint, save_checkpoint
from tests.heads.test_export import KINDS, lively_head
from tests.heads.worlds import small_config

SIDE = 128
PICTURES, CALIBRATION = 24, 16
CATEGORIES = (Category(1, "one"), Category(2, "two"), Category(3, "three"))
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
OBJECTS = 8
"""Of a picture, at most."""


def write_run(run: Path, kind: str) -> None:
    """A training run of a lively head."""
    title, _, preset = kind.partition(" ")
    entry = registry.entry(title)
    config = asdict(PRESETS[preset]) | {"proposals": 40} if preset else small_config(entry)
    name = "timm:vit_tiny_patch16_224" if entry.head.blocks else "effnet_lite0"
    backbone = load_backbone(name, (SIDE, SIDE), random_weights=bool(entry.head.blocks), blocks=entry.head.blocks)
    head = lively_head(kind, backbone.feature_spec, len(CATEGORIES))
    checkpoint = Checkpoint(
        head_name=entry.name,
        head_config=config,
        feature_spec=backbone.feature_spec,
        categories=CATEGORIES,
        backbone_name=name,
        backbone_timm_name=backbone.spec.timm_name,
        backbone_licence=backbone.spec.licence,
        backbone_weights_sha256=None,
        cache_sha256="0" * 64,
        dataset_sha256="1" * 64,
        metrics={},
        tensors=dict(head.state_dict()),
    )
    run.mkdir()
    save_checkpoint(run / "best.safetensors", checkpoint)


def pictures(folder: Path, count: int, seed: int) -> list[Path]:
    """Coarse random pictures."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    made = []
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        made.append(folder / f"{number:03}.png")
        small.resize((160, 120), Image.Resampling.BICUBIC).save(made[-1])
    return made


def dataset(paths: Sequence[Path], live: LiveDetector) -> Dataset:
    """The pictures with every second box that the head finds, moved by up to a fifth of its sides."""
    random = np.random.default_rng(0)
    images, objects = [], []
    for number, path in enumerate(paths):
        picture = Image.open(path).convert("RGB")
        found = live.detect(picture)
        images.append(ImageRecord(number + 1, path.name, path, *picture.size))
        boxes = found.boxes[1 : 2 * OBJECTS : 2]
        boxes = boxes + np.tile(random.uniform(0, 0.2, (len(boxes), 2)) * (boxes[:, 2:] - boxes[:, :2]), 2)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        objects.append(Objects(boxes, found.labels[1 : 2 * OBJECTS : 2], np.zeros(len(boxes), bool), area))
    return Dataset("own boxes", "val", CATEGORIES, tuple(images), tuple(objects))


@dataclass(frozen=True)
class World:
    """A head with its FP32 graph, its pictures and PyTorch's side of the proof."""

    kind: str
    folder: Path
    trained: Trained
    master: Master
    reference: Reference
    calibration: Calibration


def make_world(kind: str, folder: Path) -> World:
    write_run(folder / "run", kind)
    trained = load_trained(folder / "run")
    thresholds = default_thresholds(trained.head)
    spec = trained.checkpoint.feature_spec
    live = LiveDetector(trained.backbone, trained.head, spec, thresholds, torch.device("cpu"))
    proof = Proof(dataset(pictures(folder / "val", PICTURES, 0), live), (1,), threads=1)
    pictures(folder / "train", CALIBRATION, 1)
    master = trace_master({ONLY_HEAD: trained}, {ONLY_HEAD: thresholds})
    calibration = choose_calibration(str(folder / "train"), (SIDE, SIDE))
    return World(kind, folder, trained, master, measure(trained, thresholds, proof), calibration)


def row(world: World, precision: Precision) -> dict[str, Any]:
    """What a head came to in a precision; ``drop`` and ``matched`` are numbers, absent where nothing was made."""
    found: dict[str, Any] = {"head": world.kind, "precision": precision}
    try:
        converted = convert(world.master.dense, Plan(precision, world.calibration))
        target = world.folder / precision
        target.mkdir()
        write_graph(target, "table", world.master, converted.model, precision)
        report = compare(target, world.reference)
    except UserError as error:
        return found | {"verdict": f"refused: {error}"}
    counts = converted.details.get("products", {})
    share = counts.get(precision, 0) / sum(counts.values()) if counts else 1.0
    return found | {
        "share": f"{100 * share:.0f} %" if counts or precision == "fp32" else "",
        "AP": f"{report.live.AP:.4f}",
        "difference": report.worst.map_drop,
        "matched": min(each.versus_live.share for each in report.artefacts),
        "verdict": "passes" if report.passed else "; ".join(report.reasons),
    }


def main(kinds: Sequence[str]) -> None:
    columns = ("head", "precision", "share", "AP", "difference", "matched", "verdict")
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns), flush=True)
    for kind in kinds or KINDS:
        try:
            with tempfile.TemporaryDirectory() as place:
                world = make_world(kind, Path(place))
                for precision in PRECISIONS:
                    found = row(world, precision)
                    cells = (found.get(column, "") for column in columns)
                    told = (f"{cell:+.4f}" if isinstance(cell, float) else cell for cell in cells)
                    print("| " + " | ".join(told) + " |", flush=True)
        except UserError as error:
            print(f"| {kind} | | | | | | {error} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
