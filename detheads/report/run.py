"""The report of one evaluation."""

from pathlib import Path

from detheads import __version__
from detheads.cache.reader import FeatureCache
from detheads.report.evaluated import Evaluated
from detheads.report.failures import failures_section
from detheads.report.files import ReportFiles, write_document
from detheads.report.findings import draw_worst, findings, scores_section, verdict
from detheads.report.measured import Measured, measure
from detheads.report.sections import Document

PICTURES_HINT = (
    "A cache keeps no image files; for pictures of the worst images name the dataset folder: "
    "detheads eval RUN --cache CACHE -o REPORT --data FOLDER."
)


def write_report(
    evaluated: Evaluated, folder: Path, *, data: Path | None = None, pictures: int = 8, measured: Measured | None = None
) -> ReportFiles:
    """Write what detections say of what made them.

    Args:
        folder: where the report goes; other files there stay.
        data: dataset folder with the image files, for pictures.
        pictures: number of pictures in a section at most.
        measured: of the same detections, where that is known already.

    Raises:
        UserError: when ``folder`` is a file, or the pictures cannot be drawn.
    """
    dataset = evaluated.dataset
    measured = measured or measure(dataset, evaluated.detections, evaluated.statistics)
    examples = draw_worst(measured, data, pictures)
    subject = evaluated.head[0] if evaluated.head else Path(evaluated.name).name
    document = Document(
        title=f"{subject} on {dataset.name} {dataset.split}",
        verdict=" ".join([verdict(measured), *(f"Note: {remark}." for remark in evaluated.remarks)]),
        facts={**evaluated.facts, "Data": data_fact(measured), "Version": f"detheads {__version__}"},
        sections=[
            scores_section({"value": evaluated.statistics}),
            *findings(measured, examples, PICTURES_HINT if pictures and data is None else ""),
            *failures_section(measured, data, pictures),
        ],
        answer={
            "schema_version": 1,
            "detheads_version": __version__,
            **evaluated.answer,
            "dataset": {"name": dataset.name, "split": dataset.split, "images": len(dataset.images)},
            "remarks": list(evaluated.remarks),
            **measured.to_dict(),
        },
    )
    return write_document(document, folder)


def data_fact(measured: Measured) -> str:
    """The images and objects that were evaluated, in a phrase."""
    dataset, names = measured.dataset, measured.dataset.class_names
    return (
        f"{dataset.name} {dataset.split}: {len(dataset.images):,} images with {len(measured.errors.found_by):,} "
        f"objects of {len(names)} {'class' if len(names) == 1 else 'classes'}"
    )


def data_facts(measured: Measured, cache: FeatureCache) -> dict[str, str]:
    """What a report on a cache was made on, by title."""
    settings = cache.manifest.settings
    return {
        "Data": data_fact(measured),
        "Features": f"{settings.backbone}, input {settings.width} x {settings.height} pixels",
    }
