"""The page of a making: what was chosen and why, what the bundle finds, and where it fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from detheads import __version__
from detheads.evaluation.coco import UNDEFINED
from detheads.foundation.geometry import Letterbox
from detheads.make.budget import span
from detheads.make.contest import Trial
from detheads.report.errors import Kind
from detheads.report.evaluated import Evaluated
from detheads.report.failures import failures_section
from detheads.report.files import write_document
from detheads.report.findings import draw_worst, findings, image_scene, scores_section, verdict
from detheads.report.measured import Measured, measure
from detheads.report.pictures import draw_examples, image_paths
from detheads.report.run import data_fact
from detheads.report.sections import Column, Document, Plot, Section, Table, Value
from detheads.training.log import PLOT_NAME

SHOWN = 8
"""Pictures of a section."""
SIDES = (0.0, 16.0, 32.0, 64.0, 128.0, float("inf"))
"""Borders of the sizes that objects are counted by: side (root of the area) in pixels of the model's input."""


@dataclass(frozen=True)
class Story:
    """All that the page tells.

    Attributes:
        data: the folder that the judged pictures are a split of.
        judged: how the figures came about, in a sentence.
        why: every choice with its reasons, by what was chosen.
        remarks: on the dataset.
        input: height and width of the model's input in pixels.
        proof: the proof's outcome in a sentence.
        commands: that come next, with what each is for.
    """

    name: str
    data: Path
    judged: str
    why: Mapping[str, Sequence[str]]
    remarks: Sequence[str]
    input: tuple[int, int]
    trials: Sequence[Trial]
    failed: Sequence[str]
    proof: str
    seconds: Mapping[str, float]
    commands: Sequence[tuple[str, str]]
    answer: Mapping[str, Any]


def write_page(evaluated: Evaluated, story: Story, folder: Path) -> Path:
    """Write the page, with the same as Markdown and JSON beside it; returns the page's path.

    Raises:
        UserError: when the pictures cannot be drawn.
    """
    dataset = evaluated.dataset
    measured = measure(dataset, evaluated.detections, evaluated.statistics)
    document = Document(
        title=f"{story.name}: a detector made of {dataset.name}",
        verdict=" ".join(
            [verdict(measured), story.judged, story.proof, *(f"Note: {remark}." for remark in evaluated.remarks)]
        ),
        facts={
            **evaluated.facts,
            "Data": data_fact(measured),
            "Time": f"{span(sum(story.seconds.values()))}: "
            + ", ".join(f"{step} {seconds:.0f} s" for step, seconds in story.seconds.items()),
            "Version": f"detheads {__version__}",
        },
        sections=[
            _choices_section(story),
            scores_section({"value": evaluated.statistics}),
            _pictures_section(measured, story.data),
            _training_section(story),
            *findings(measured, draw_worst(measured, story.data, SHOWN), ""),
            sizes_section(measured, story.input),
            *failures_section(measured, story.data, SHOWN),
            *_dataset_section(story),
            _next_section(story),
        ],
        answer={**story.answer, **measured.to_dict()},
    )
    return write_document(document, folder).page


def _choices_section(story: Story) -> Section:
    rows: list[list[Value]] = [
        [what if place == 0 else "", reason]
        for what, reasons in story.why.items()
        for place, reason in enumerate(reasons)
    ]
    return Section("What was chosen, and why", [Table([Column("what"), Column("why")], rows)])


def _training_section(story: Story) -> Section:
    """The heads that were trained, and the curves of the one that was taken."""
    columns = [
        Column("head", high_first=False),
        Column(
            "pictures",
            high_first=False,
            note="altered: with altered copies",
        ),
        Column("epochs"),
        Column("AP", ".3f", absent=UNDEFINED),
        Column("AP50", ".3f", absent=UNDEFINED),
        Column("parameters", ",", high_first=False),
        Column("minutes", ".1f", high_first=False),
        Column("best epoch"),
    ]
    rows: list[list[Value]] = [
        [
            trial.row.head,
            trial.train.folder.name,
            trial.epochs,
            trial.row.metrics["AP"],
            trial.row.metrics["AP50"],
            trial.row.parameters,
            None if trial.row.seconds is None else trial.row.seconds / 60,
            trial.row.best_epoch,
        ]
        for trial in story.trials
    ]
    plot = story.trials[0].run / PLOT_NAME
    return Section(
        "Training",
        [Table(columns, rows, sorted_by=3, rising=False)],
        [Plot("Loss and AP over the steps", "training.png", plot.read_bytes())] if plot.is_file() else [],
        remarks=story.failed,
    )


def _pictures_section(measured: Measured, data: Path) -> Section:
    """Pictures spread over those that judge, not the worst ones."""
    total = len(measured.dataset.images)
    chosen = sorted({index * total // SHOWN for index in range(SHOWN)})
    paths = image_paths(measured.dataset, chosen, data)
    return Section(
        "What it finds",
        sentences=[
            f"{len(chosen)} of the pictures that judge, evenly spread: left the objects, right the detections from "
            f"score {measured.score:.2f} on, each in the colour of what became of it."
        ],
        examples=draw_examples([image_scene(measured, index, paths[index]) for index in chosen]),
        strips="finds",
    )


def sizes_section(measured: Measured, size: tuple[int, int]) -> Section:
    """How many objects of each size are found: the smallest ones are what an input size decides.

    Args:
        size: height and width of the model's input in pixels.
    """
    errors = measured.errors
    scales = np.array(
        [Letterbox.fit(image.width, image.height, size[1], size[0]).scale for image in measured.dataset.images]
    )  # [images, 2], along x and y
    spans = (errors.object_boxes[:, 2:] - errors.object_boxes[:, :2]) * scales[errors.object_image]
    sides = np.sqrt(spans.prod(axis=1))
    found = errors.verdicts(measured.score) == Kind.FOUND
    columns = [
        Column("side in the input, pixels", high_first=False),
        Column("objects", ","),
        Column("found", ","),
        Column("share", ".1%", absent=UNDEFINED),
    ]
    rows: list[list[Value]] = []
    for low, high in pairwise(SIDES):
        inside = (sides >= low) & (sides < high)
        count, hits = int(inside.sum()), int(found[inside].sum())
        title = f"under {high:g}" if low == 0 else f"{low:g} and more" if np.isinf(high) else f"{low:g} to {high:g}"
        rows.append([title, count, hits, hits / count if count else None])
    return Section(
        "Smallest objects",
        [Table(columns, rows)],
        sentences=[
            f"From score {measured.score:.2f} on, at an input of {size[1]}x{size[0]} (width x height). Where small "
            "objects are missed and large ones are not, a larger --size helps, or tiles (detheads deploy run --tile)."
        ],
    )


def _dataset_section(story: Story) -> list[Section]:
    return [Section("What was noticed about the dataset", remarks=story.remarks)] if story.remarks else []


def _next_section(story: Story) -> Section:
    rows: list[list[Value]] = [[command, purpose] for command, purpose in story.commands]
    return Section("Next", [Table([Column("command"), Column("what for")], rows)])
