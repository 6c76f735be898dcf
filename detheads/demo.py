"""The whole job in one call: dataset, cache, head, evaluation, bundle with proof, picture."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detheads.backbones.backbone import load_backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset, list_splits, read_dataset
from detheads.data.scenes import generate
from detheads.deploy.detector import Detector
from detheads.export.pipeline import export_run
from detheads.export.proof import Proof
from detheads.foundation import atomic
from detheads.foundation.drawing import draw_boxes
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.progress import Progress, silent, under
from detheads.ops.devices import pick_device
from detheads.report.evaluated import evaluate_run
from detheads.report.run import write_report
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer

BACKBONE = "effnet_lite0"
HEAD = "split_tower"
HEAD_OPTIONS: Mapping[str, Any] = {"hidden": 64, "standard_blocks": 2, "depthwise_blocks": 1, "text_dim": 64}
SCENES = {"train": 240, "val": 60}
SCENE_SIZE = 320

USER_SIZE = 512


@dataclass(frozen=True)
class DemoResult:
    """What the demo made and measured; AP values are in 0..1."""

    map: float
    map50: float
    live_map: float
    onnx_map: float
    map_drop: float
    parameters: int
    engine: str | None
    engine_status: str
    bundle: str
    picture: str
    report: str
    """The proof's."""
    page: str
    """What the head gets wrong."""
    steps: dict[str, float]
    """Seconds by step."""
    seconds: float


def run_demo(
    output: Path,
    *,
    data: Path | None = None,
    size: int | None = None,
    epochs: int = 12,
    on_progress: Progress = silent,
) -> DemoResult:
    """Run the main job on generated scenes, or on the dataset folder ``data``, into ``output``.

    Interrupted, it continues where it stopped. Features come from the embedded backbone, so nothing is downloaded.

    Raises:
        UserError: when the dataset has no training and validation split, or any step fails.
    """
    started = time.monotonic()
    seconds: dict[str, float] = {}

    with _timed("dataset", seconds):
        side = size or (SCENE_SIZE if data is None else USER_SIZE)
        source = data or _scenes(output / "scenes", on_progress)
        train, val = _splits(source)

    with _timed("cache", seconds):
        backbone = load_backbone(BACKBONE, (side, side)).to(pick_device())
        caches = {}
        for name, dataset in (("train", train), ("val", val)):
            folder = output / f"cache-{name}"
            build_cache(
                dataset, backbone, folder, flips=name == "train", on_progress=under(f"caching {name}", on_progress)
            )
            caches[name] = FeatureCache(folder)

    trainer = Trainer(
        HEAD,
        HEAD_OPTIONS,
        caches["train"],
        caches["val"],
        output / "run",
        TrainConfig(epochs=epochs, eval_every=4),
        device=pick_device(),
    )
    trained = trainer.fit(lambda status: on_progress("training", status.step, status.total_steps))
    seconds["train"] = round(trained.seconds, 1)  # of all its parts, where it was interrupted

    with _timed("report", seconds):
        page = _report(output / "run", caches["val"], output / "report", source, on_progress)

    with _timed("export and proof", seconds):
        exported = export_run(
            output / "run", output / "demo.detheads", proof=Proof(val), force=True, on_progress=on_progress
        )
    if exported.bundle is None or exported.report is None:
        raise UserError(f"the exported graph does not equal the original; see {exported.report_file}.")

    picture = output / "detections.jpg"
    _draw(exported.bundle, val, picture)
    engine = next(iter(exported.manifest.engines), None)
    return DemoResult(
        map=trained.metrics["AP"],
        map50=trained.metrics["AP50"],
        live_map=exported.report.live.require_ap(),
        onnx_map=exported.report.worst.statistics.require_ap(),
        map_drop=exported.report.worst.map_drop,
        parameters=trained.parameters,
        engine=str(exported.bundle / engine.file) if engine else None,
        engine_status=engine.status if engine else "; ".join(exported.remarks),
        bundle=str(exported.bundle),
        picture=str(picture),
        report=str(exported.report_file),
        page=str(page),
        steps=seconds,
        seconds=round(time.monotonic() - started, 1),
    )


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[step] = round(time.monotonic() - begun, 1)


def _scenes(folder: Path, on_progress: Progress) -> Path:
    """Generated scenes, drawn once."""
    if not folder.exists():
        generate(folder, **SCENES, size=SCENE_SIZE, on_progress=on_progress)
    return folder


def _splits(data: Path) -> tuple[Dataset, Dataset]:
    """The training and the validation split of a dataset folder."""
    names = list_splits(data)
    train = next((name for name in names if name.startswith("train")), None)
    val = next((name for name in names if name.startswith("val")), None) or next(
        (name for name in names if name.startswith("test")), None
    )
    if train is None or val is None:
        raise UserError(f"{data} has the splits {', '.join(names)}; the demo needs a training and a validation split.")
    return read_dataset(data, train), read_dataset(data, val)


def _report(run: Path, cache: FeatureCache, folder: Path, data: Path, on_progress: Progress) -> Path:
    """The page of the trained head's scores and errors."""
    return write_report(evaluate_run(run, cache, device=pick_device(), on_progress=on_progress), folder, data=data).page


def _draw(bundle: Path, dataset: Dataset, picture: Path) -> None:
    """Detections of the deployed graph in the validation image with the most objects."""
    index = max(range(len(dataset.images)), key=lambda i: len(dataset.objects[i].boxes))
    image = load_image(dataset.images[index].path)
    (found,) = Detector(bundle).detect([image])
    names = dataset.class_names
    confident = found.above(0.5)
    labels = [names[label] for label in confident.labels]
    drawn = draw_boxes(image, confident.boxes, labels, colors=confident.labels, scores=confident.scores)
    with atomic.replacing(picture) as unfinished:
        drawn.save(unfinished)
