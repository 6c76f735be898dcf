"""What went wrong, detection by detection and object by object, as tables and as pictures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detheads.foundation import atomic
from detheads.foundation.text import file_name
from detheads.report.errors import Kind
from detheads.report.findings import PALETTE
from detheads.report.measured import Measured
from detheads.report.pictures import PANEL_SIZES, Drawing, Scene, draw_examples, draw_scene, image_paths
from detheads.report.sections import Column, Section, Table, Value

LISTED, WRITTEN = 20, 50
"""Rows of a report's tables, and pictures of each kind in a folder, at most."""
INDEX_NAME = "failures.json"
WANTED = 4
"""Colour of the objects in pictures, as an index into the palette of drawn boxes."""


@dataclass(frozen=True)
class Failure:
    """A false detection or a missed object.

    Attributes:
        kind: that of :class:`detheads.report.errors.Kind`, by its label.
        image: index into the dataset's images.
        name: class of the detection or of the object.
        score: of the detection; None for a missed object.
        box: xyxy in original pixels.
        means: the class of the object that a confused detection took; empty otherwise.
    """

    kind: str
    image: int
    name: str
    score: float | None
    box: tuple[float, float, float, float]
    means: str = ""


def false_detections(measured: Measured) -> list[Failure]:
    """Detections of all scores that are not right, the most confident first."""
    errors, names = measured.errors, measured.dataset.class_names
    rows = np.flatnonzero(errors.kind != Kind.FOUND)
    failures = []
    for row in rows[np.argsort(-errors.score[rows], kind="stable")]:
        kind = Kind(errors.kind[row])
        confused = kind in (Kind.CONFUSED, Kind.BOTH)
        failures.append(
            Failure(
                kind.label,
                int(errors.image[row]),
                names[errors.label[row]],
                float(errors.score[row]),
                _corners(errors.boxes[row]),
                names[errors.object_label[errors.about[row]]] if confused else "",
            )
        )
    return failures


def missed_objects(measured: Measured) -> list[Failure]:
    """Objects that no detection from the working score on finds, misplaces or confuses, the largest first."""
    errors, names = measured.errors, measured.dataset.class_names
    rows = np.flatnonzero(errors.verdicts(measured.score) == Kind.MISSED)
    sides = errors.object_boxes[rows, 2:] - errors.object_boxes[rows, :2]
    order = np.argsort(-sides.prod(axis=1), kind="stable")
    return [
        Failure(
            Kind.MISSED.label,
            int(errors.object_image[row]),
            names[errors.object_label[row]],
            None,
            _corners(errors.object_boxes[row]),
        )
        for row in rows[order]
    ]


def failures_section(measured: Measured, data: Path | None, count: int) -> list[Section]:
    """The most confident false detections and the largest missed objects.

    Args:
        data: the dataset folder, for pictures; without it there are none.
        count: pictures of each kind at most.

    Raises:
        UserError: when the folder has not the images that were evaluated.
    """
    sections = []
    for title, failures, sentence in (
        (
            "Most confident false detections",
            false_detections(measured),
            "Of all scores, the highest first: what no choice of a score avoids, and often an object that nobody "
            "annotated. Left the objects, right the detection.",
        ),
        (
            "Missed objects",
            missed_objects(measured),
            f"No detection from score {measured.score:.4f} on has to do with them; the largest first. Left the object, "
            "right the detections.",
        ),
    ):
        if not failures:
            continue
        chosen = failures[:count] if data is not None else []
        paths = image_paths(measured.dataset, [each.image for each in chosen], data) if data is not None else {}
        columns = [
            Column("image", high_first=False),
            Column("class", high_first=False),
            Column("kind", high_first=False),
            Column("score", ".3f"),
            Column("taken for", high_first=False),
            Column("width", ".0f"),
            Column("height", ".0f"),
        ]
        sections.append(
            Section(
                title,
                [Table(columns, [_row(measured, each) for each in failures[:LISTED]])],
                sentences=[f"{len(failures):,} in all. {sentence}"],
                examples=draw_examples([_scene(measured, each, paths[each.image]) for each in chosen]),
                strips="false" if failures[0].score is not None else "missed",
            )
        )
    return sections


def write_failures(measured: Measured, data: Path, folder: Path, count: int = WRITTEN) -> list[str]:
    """Write a picture of each failure: the most confident false detections, then the largest missed objects.

    File names tell rank, kind, score, class and picture, and are safe whatever these are called; ``failures.json``
    lists them with the boxes. Other files in the folder stay.

    Args:
        data: the dataset folder, which has the image files.
        count: pictures of each kind at most.

    Raises:
        UserError: when the folder has not the images that were evaluated.
    """
    failures = [*false_detections(measured)[:count], *missed_objects(measured)[:count]]
    paths = image_paths(measured.dataset, [each.image for each in failures], data)
    written: list[dict[str, Any]] = []
    places = {"false": 0, "missed": 0}
    for each in failures:
        sort = "missed" if each.score is None else "false"
        places[sort] += 1
        picture = measured.dataset.images[each.image].file_name
        parts = [sort, f"{places[sort]:03d}", *([] if each.score is None else [f"{each.score:.3f}", each.kind])]
        name = file_name("-".join([*parts, each.name, Path(picture).stem]) + ".jpg")
        with atomic.replacing(folder / name) as partial:
            draw_scene(_scene(measured, each, paths[each.image]), PANEL_SIZES[0]).strip().save(partial, quality=90)
        written.append({**asdict(each), "image": picture, "picture": name})
    atomic.write_json(folder / INDEX_NAME, written)
    return [each["picture"] for each in written]


def _scene(measured: Measured, failure: Failure, path: Path) -> Scene:
    """The objects of an image and the false detection, or the missed object and the detections."""
    errors, names = measured.errors, measured.dataset.class_names
    objects = np.flatnonzero(errors.object_image == failure.image)
    alone = np.array([failure.box])
    color = PALETTE[Kind[failure.kind.upper()]]
    if failure.score is None:
        shown = np.flatnonzero((errors.image == failure.image) & (errors.score >= measured.score))
        drawings = [
            Drawing(f"missed: {failure.name}", alone, [failure.name], [color]),
            Drawing(
                f"detections from score {measured.score:.2f} on: {len(shown)}",
                errors.boxes[shown],
                [names[label] for label in errors.label[shown]],
                [PALETTE[Kind(kind)] for kind in errors.kind[shown]],
                errors.score[shown],
            ),
        ]
    else:
        labels = [names[label] for label in errors.object_label[objects]]
        drawings = [
            Drawing(f"truth: {len(objects)} objects", errors.object_boxes[objects], labels, [WANTED] * len(objects)),
            Drawing(
                f"{failure.kind}: {failure.name}, score {failure.score:.3f}",
                alone,
                [failure.name],
                [color],
                np.array([failure.score]),
            ),
        ]
    return Scene(measured.dataset.images[failure.image], path, drawings)


def _row(measured: Measured, failure: Failure) -> list[Value]:
    left, top, right, bottom = failure.box
    picture = measured.dataset.images[failure.image].file_name
    return [picture, failure.name, failure.kind, failure.score, failure.means, right - left, bottom - top]


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom
