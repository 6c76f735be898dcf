"""Arena folders written by hand: rows as they should be reported."""

from pathlib import Path
from typing import Any

from detheads.arena.records import SETTING_NAME, Row, Setting, detections_path, write_row
from detheads.evaluation.coco import NAMES
from detheads.foundation import atomic
from tests.training.world import HEIGHT, WIDTH, World


def setting(world: World | None = None, **changes: Any) -> Setting:
    """A setting, of the world's caches where one is given."""
    values: dict[str, Any] = {
        "dataset": "scenes",
        "backbone": "effnet_lite0",
        "height": HEIGHT,
        "width": WIDTH,
        "classes": ("disc", "ring"),
        "train_images": 10,
        "val_images": 5,
        "train_cache": "gone/train",
        "val_cache": "gone/val",
        "train_sha256": "0" * 64,
        "val_sha256": "1" * 64,
        "training": {"epochs": 3, "batch": 4, "lr": 0.001, "warmup_steps": 100},
        "text_sha256": None,
        "machine": "2 cores, x86_64, Linux",
        "versions": {"detheads": "0.1.0", "torch": "2.6.0"},
    }
    if world is not None:
        val = world.cache("val")
        values |= {"classes": tuple(val.dataset.class_names), "val_cache": str(val.folder), "val_sha256": val.sha256}
    return Setting(**values | changes)


def done(head: str, ap: float | None, parameters: int, **changes: Any) -> Row:
    """The row of a head that finished."""
    values: dict[str, Any] = {
        "head": head,
        "summary": f"The idea of {head}.",
        "status": "done",
        "options": {"width": 32},
        "parameters": parameters,
        "gflops": 0.125,
        "candidates": 1234,
        "nms_free": False,
        "metrics": dict.fromkeys(NAMES, ap) | {"APl": None},
        "per_class": {"disc": ap, "ring": None},
        "best_epoch": 2,
        "seconds": 90.0,
        "milliseconds": 4.25,
    }
    return Row(**values | changes)


def failed(head: str, error: str) -> Row:
    """The row of a head that did not."""
    return Row(head=head, summary=f"The idea of {head}.", status="failed", error=error, options={"width": 32})


def stopped(head: str, why: str) -> Row:
    """The row of a head that was behind the others."""
    return failed(head, why).model_copy(update={"status": "stopped"})


def write_arena(folder: Path, given: Setting, *rows: Row) -> Path:
    atomic.write_json(folder / SETTING_NAME, given.model_dump())
    for row in rows:
        write_row(folder, row)
    return folder


def find_everything(folder: Path, head: str, world: World) -> None:
    """Detections of a head that finds every object at score 0.9, and everything again at a score not worth drawing."""
    truth = world.cache("val").dataset.coco_json()["annotations"]
    results = [
        {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": score}
        for entry in truth
        for score in (0.9, 0.3)
    ]
    atomic.write_json(detections_path(folder, head), results)
