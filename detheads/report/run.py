"""The report of a trained run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detheads import __version__
from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import Statistics
from detheads.report.files import ReportFiles, write_document
from detheads.report.findings import draw_worst, findings, scores_section, verdict
from detheads.report.measured import Measured, measure
from detheads.report.sections import Document
from detheads.training.checkpoint import Checkpoint

PICTURES_HINT = (
    "A cache keeps no image files; for pictures of the worst images name the dataset folder: "
    "detheads eval RUN --cache CACHE -o REPORT --data FOLDER."
)


def write_report(
    run: Path,
    checkpoint: Checkpoint,
    parameters: int,
    cache: FeatureCache,
    detections: Sequence[Mapping[str, Any]],
    statistics: Statistics,
    folder: Path,
    *,
    data: Path | None = None,
    pictures: int = 8,
    soft_nms: bool = False,
) -> ReportFiles:
    """Write what a run's detections on a cache say of it.

    Args:
        parameters: learnable ones of the head.
        detections: COCO results for the cache's images.
        statistics: of the same detections.
        folder: where the report goes; other files there stay.
        data: dataset folder with the cache's image files, for pictures of the worst images.
        pictures: number of pictures at most.
        soft_nms: how the detections were suppressed.

    Raises:
        UserError: when ``folder`` is a file, or the pictures cannot be drawn.
    """
    measured = measure(cache.dataset, detections, statistics)
    examples = draw_worst(measured, data, pictures)
    facts = {
        "Head": f"{checkpoint.head_name}, {parameters:,} parameters",
        "Options": ", ".join(f"{name} {value}" for name, value in checkpoint.head_config.items()) or "none",
        "Run": f"{run}, weights {checkpoint.checkpoint_sha256[:12]}",
        **data_facts(measured, cache),
        "Suppression": "soft NMS" if soft_nms else "as in the deployed graph",
        "Version": f"detheads {__version__}",
    }
    document = Document(
        title=f"{checkpoint.head_name} on {cache.dataset.name} {cache.dataset.split}",
        verdict=verdict(measured),
        facts=facts,
        sections=[
            scores_section({"value": statistics}),
            *findings(measured, examples, PICTURES_HINT if pictures and data is None else ""),
        ],
        answer={
            "schema_version": 1,
            "detheads_version": __version__,
            "model": str(run),
            "head": checkpoint.head_name,
            "options": checkpoint.head_config,
            "checkpoint_sha256": checkpoint.checkpoint_sha256,
            "parameters": parameters,
            "dataset": {"name": cache.dataset.name, "split": cache.dataset.split, "images": len(cache)},
            "soft_nms": soft_nms,
            **measured.to_dict(),
        },
    )
    return write_document(document, folder)


def data_facts(measured: Measured, cache: FeatureCache) -> dict[str, str]:
    """What a report was made on, by title."""
    dataset, settings = cache.dataset, cache.manifest.settings
    names = dataset.class_names
    return {
        "Data": (
            f"{dataset.name} {dataset.split}: {len(cache):,} images with {len(measured.errors.found_by):,} objects of "
            f"{len(names)} {'class' if len(names) == 1 else 'classes'}"
        ),
        "Features": f"{settings.backbone}, input {settings.width} x {settings.height} pixels",
    }
