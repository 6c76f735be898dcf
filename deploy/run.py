"""Run a bundle over pictures: COCO results and annotated pictures in a new folder."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from detheads.deploy.detector import Detections, Detector
from detheads.deploy.inputs import InputImage
from detheads.foundation import atomic
from detheads.foundation.claims import new_folder
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.drawing import draw_boxes
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.progress import Progress, silent

RESULTS_NAME = "detections.json"
IMAGES_NAME = "images.json"
PICTURES_NAME = "pictures"


@dataclass(frozen=True)
class RunResult:
    """What a run wrote.

    Attributes:
        results: COCO results file (a list).
        images: table of image ids, names and sizes, and of the categories; a COCO file without annotations.
        pictures: annotated pictures, in input order.
        detections: number of entries in ``results``.
        skipped: one sentence for each picture that could not be read.
    """

    folder: Path
    results: Path
    images: Path
    pictures: tuple[Path, ...]
    image_count: int
    detections: int
    skipped: tuple[str, ...]


def run_images(
    detector: Detector,
    inputs: Sequence[InputImage],
    folder: Path,
    *,
    score: float = 0.05,
    draw_score: float = 0.3,
    batch: int = 1,
    pictures: bool = True,
    skip_bad: bool = False,
    on_progress: Progress = silent,
) -> RunResult:
    """Detect objects in ``inputs`` and write ``folder``, which must be new or empty. It appears when all is done.

    Args:
        score: lowest score of a detection in the results file.
        draw_score: lowest score of a box on a picture.
        batch: pictures in one run of the graph.
        pictures: write annotated pictures too.
        skip_bad: go on after a picture that cannot be read; its sentence is in the result.

    Raises:
        UserError: when a picture cannot be read (without ``skip_bad``), when none can, or when ``folder`` is in use.
    """
    if not inputs:
        raise UserError("there is no picture to run.")
    names = [entry.name for entry in detector.manifest.classes]
    category_ids = [entry.id for entry in detector.manifest.classes]
    entries: list[dict[str, Any]] = []
    table: list[dict[str, Any]] = []
    drawn: dict[str, None] = {}  # names of the pictures, in order and unique
    skipped: list[str] = []
    with new_folder(folder) as partial:
        for chunk in _batches(inputs, batch, skipped if skip_bad else None):
            for (source, image), detections in zip(chunk, detector.detect([image for _, image in chunk]), strict=True):
                found = detections.above(score)
                entries += to_coco_results(source.id, found.boxes, found.scores, found.labels, category_ids)
                table.append({"id": source.id, "file_name": source.name, "width": image.width, "height": image.height})
                if pictures:
                    name = _picture_name(source, drawn)
                    _draw(image, detections.above(draw_score), names, partial / PICTURES_NAME / name)
                    drawn[name] = None
            on_progress("detecting", len(table) + len(skipped), len(inputs))
        if not table:
            raise UserError(f"none of the {len(inputs)} pictures could be read; the first: {skipped[0]}")
        categories = [{"id": entry.id, "name": entry.name} for entry in detector.manifest.classes]
        atomic.write_json(partial / RESULTS_NAME, entries, indent=None)
        atomic.write_json(partial / IMAGES_NAME, {"images": table, "categories": categories, "skipped": skipped})
    return RunResult(
        folder,
        folder / RESULTS_NAME,
        folder / IMAGES_NAME,
        tuple(folder / PICTURES_NAME / name for name in drawn),
        len(table),
        len(entries),
        tuple(skipped),
    )


def _batches(
    inputs: Sequence[InputImage], size: int, skipped: list[str] | None
) -> Iterator[list[tuple[InputImage, Image.Image]]]:
    """Decoded pictures in batches; unreadable ones go to ``skipped`` or, without that list, stop the run."""
    chunk: list[tuple[InputImage, Image.Image]] = []
    for source in inputs:
        try:
            chunk.append((source, load_image(source.path)))
        except UserError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _picture_name(source: InputImage, taken: Container[str]) -> str:
    """A file name below the pictures folder: the source's own path, made unique and safe."""
    parts = [part for part in PurePosixPath(source.name).parts if part not in {"..", "/", "."}]
    path = PurePosixPath(*parts).with_suffix(".jpg")
    return str(path if str(path) not in taken else path.with_name(f"{path.stem}-{source.id}.jpg"))


def _draw(image: Image.Image, detections: Detections, names: Sequence[str], path: Path) -> None:
    labels = detections.labels.tolist()
    picture = draw_boxes(image, detections.boxes, [names[label] for label in labels], labels, detections.scores)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=92)
