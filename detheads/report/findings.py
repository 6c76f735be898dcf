"""The sections that every detector's report has: scores, curves, errors by kind, classes, worst images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from detheads.evaluation.coco import NAMES, UNDEFINED, Statistics
from detheads.evaluation.scores import RULE, TABLE_SCORES
from detheads.foundation.drawing import palette_color
from detheads.report.curves import read_curves
from detheads.report.errors import NEAR, RIGHT, WRONG, Kind
from detheads.report.figures import costs_figure, curves_figure, png, scores_figure
from detheads.report.measured import ClassReport, ImageReport, Measured
from detheads.report.pictures import Drawing, Example, Scene, boxes_text, draw_examples, image_paths
from detheads.report.sections import Column, Plot, Section, Table, Value

CURVES_PLOT, SCORES_PLOT, ERRORS_PLOT = "precision_recall.png", "scores.png", "errors.png"

PALETTE = {
    Kind.FOUND: 4,
    Kind.MISSED: 0,
    Kind.MISPLACED: 5,
    Kind.CONFUSED: 3,
    Kind.BOTH: 6,
    Kind.DUPLICATE: 1,
    Kind.BACKGROUND: 8,
}
"""The colour of each kind in pictures, plot and table, as an index into the palette of drawn boxes."""

MEANING = {
    Kind.FOUND: f"the right class, IoU of {RIGHT:g} or more",
    Kind.MISSED: "an object that no detection finds, misplaces or confuses",
    Kind.MISPLACED: f"the right class, IoU from {NEAR:g} to below {RIGHT:g}",
    Kind.CONFUSED: f"another class, IoU of {RIGHT:g} or more",
    Kind.BOTH: f"confused and misplaced: another class, IoU from {NEAR:g} to below {RIGHT:g}",
    Kind.DUPLICATE: "a further detection of an object already found",
    Kind.BACKGROUND: f"IoU below {NEAR:g} with every object",
}

SCORES_NOTE = (
    "AP over IoU 0.50:0.95 by pycocotools, in 0..1; small, medium and large are counted in pixels of the original "
    "pictures; undefined where no object defines one."
)

LISTED_IMAGES, LISTED_CLASSES = 20, 200
"""Rows of the tables at most; the JSON has all."""


def verdict(measured: Measured) -> str:
    """The outcome in a sentence or two."""
    statistics, costs = measured.statistics, measured.costs
    if statistics.AP is None or statistics.AP50 is None:
        return "AP is undefined: the images show no object."
    reached = f"AP {statistics.AP:.3f}, AP50 {statistics.AP50:.3f}."
    worst = max(WRONG, key=lambda kind: costs[kind] or 0.0)
    if not costs[worst]:
        return f"{reached} No repair of one kind of error would raise AP50."
    gain = f"its repair alone would add {costs[worst]:.3f} to AP50"
    return f"{reached} The costliest kind of error is {worst.label}: {gain}."


def scores_section(columns: Mapping[str, Statistics]) -> Section:
    """The twelve statistics, of one or several evaluations by title."""
    table = Table(
        [Column("statistic"), *(Column(title, ".4f", absent=UNDEFINED) for title in columns)],
        [[name, *(getattr(each, name) for each in columns.values())] for name in NAMES],
        tiles=True,
    )
    return Section("Scores", [table], sentences=[SCORES_NOTE])


def findings(measured: Measured, examples: Sequence[Example], hint: str) -> list[Section]:
    """Curves, errors by kind, classes and worst images.

    Args:
        examples: of :func:`draw_worst`.
        hint: how to get pictures, where there are none.
    """
    curves = Plot("Precision and recall", CURVES_PLOT, png(curves_figure(measured.curves)))
    sections = [
        Section("Precision and recall", plots=[curves], sentences=[read_curves(measured.curves)]),
        _choice_section(measured),
        _errors_section(measured),
    ]
    if len(measured.classes) > 1:
        sections.append(_classes_section(measured))
    return [*sections, _images_section(measured, examples, hint)]


def draw_worst(measured: Measured, data: Path | None, count: int) -> list[Example]:
    """The worst images: the objects, and beside them the detections, both in the colours of their kinds.

    Args:
        data: the dataset folder, which has the image files; without it there are none.
        count: images at most.

    Raises:
        UserError: when the folder has not the images that were evaluated.
    """
    if data is None or count == 0:
        return []
    worst = [image.index for image in measured.images[:count]]
    paths = image_paths(measured.dataset, worst, data)
    return draw_examples([image_scene(measured, index, paths[index]) for index in worst])


def image_scene(measured: Measured, index: int, path: Path) -> Scene:
    """One image: its objects, and beside them the detections from the working score on, in the colours of their kinds.

    Args:
        index: into the dataset's images.
        path: the image's file.
    """
    errors, names = measured.errors, measured.dataset.class_names
    objects = np.flatnonzero(errors.object_image == index)
    verdicts = errors.verdicts(measured.score)[objects]
    shown = np.flatnonzero((errors.image == index) & (errors.score >= measured.score))
    kinds = errors.kind[shown]
    return Scene(
        measured.dataset.images[index],
        path,
        [
            Drawing(
                f"truth: {boxes_text(len(objects))}, {int((verdicts != Kind.FOUND).sum())} not found",
                errors.object_boxes[objects],
                [_name(names[label], kind) for label, kind in zip(errors.object_label[objects], verdicts, strict=True)],
                [PALETTE[Kind(kind)] for kind in verdicts],
            ),
            Drawing(
                f"detections: {boxes_text(len(shown))}, {int((kinds != Kind.FOUND).sum())} wrong",
                errors.boxes[shown],
                [_name(names[label], kind) for label, kind in zip(errors.label[shown], kinds, strict=True)],
                [PALETTE[Kind(kind)] for kind in kinds],
                errors.score[shown],
            ),
        ],
    )


def _name(name: str, kind: int) -> str:
    return name if kind == Kind.FOUND else f"{name}: {Kind(kind).label}"


def _choice_section(measured: Measured) -> Section:
    """Precision, recall and F1 over scores, and the best score of each class."""
    together = measured.scores.together
    numbers = [Column(title, ".3f", absent=UNDEFINED) for title in ("precision", "recall", "F1")]
    points = [together.at(score) for score in TABLE_SCORES]
    tables = [
        Table(
            [Column("from score on", ".1f"), Column("detections", ","), *numbers],
            [[each.score, each.detections, each.precision, each.recall, each.f1] for each in points],
        )
    ]
    if len(measured.scores.per_class) > 1:
        # Three digits of a score that lies halfway between two others may fall on the wrong side; four seldom do.
        columns = [Column("class", high_first=False), Column("best score", ".4f"), *numbers]
        best = [(name, curve.best) for name, curve in list(measured.scores.per_class.items())[:LISTED_CLASSES]]
        rows: list[list[Value]] = [
            [name, None, None, None, None] if each is None else [name, each.score, each.precision, each.recall, each.f1]
            for name, each in best
        ]
        tables.append(Table(columns, rows, sorted_by=0))
    plot = Plot("Precision, recall and F1 over scores", SCORES_PLOT, png(scores_figure(together)))
    return Section(
        "From which score on", tables, [plot], [measured.scores.at_recall.told(), f"The best score is {RULE}."]
    )


def _errors_section(measured: Measured) -> Section:
    everywhere, working = measured.errors.counts(), measured.errors.counts(measured.score)
    columns = [
        Column("kind"),
        Column("what it is"),
        Column("all", ","),
        Column(f"from score {measured.score:.2f} on", ","),
        Column("AP50 gained", ".4f", "by the repair of this kind alone"),
    ]
    rows: list[list[Value]] = [
        [kind.label, MEANING[kind], everywhere[kind], working[kind], measured.costs.get(kind)] for kind in Kind
    ]
    costs = {kind.label: cost for kind, cost in measured.costs.items()}
    colors = [_rgb(kind) for kind in WRONG]
    plot = Plot("What each kind of error costs", ERRORS_PLOT, png(costs_figure(costs, colors)))
    table = Table(columns, rows, colors=[_css(kind) for kind in Kind])
    return Section("Errors by kind", [table], [plot], list(_read_errors(measured)))


def _read_errors(measured: Measured) -> Iterator[str]:
    point, objects = measured.working_point, len(measured.errors.found_by)
    if point is None:
        yield f"No detection is right; classes and images count those from score {measured.score:g} on."
    else:
        yield (
            f"The best F1 is {point.f1:.3f}, from score {point.score:.4f} on: {point.precision:.1%} of the detections "
            f"are right, and {point.recall:.1%} of the {objects:,} objects are found."
        )
    yield (
        "Kinds and repairs are those of TIDE (Bolya et al. 2020) at IoU 0.5: the best misplaced or confused detection "
        "of an object that nothing finds becomes right, other wrong detections leave, missed objects are not counted. "
        "The gains do not add up, because one repair can undo what another would gain."
    )


def _classes_section(measured: Measured) -> Section:
    columns = [
        Column("class", high_first=False),
        Column("objects", ","),
        Column("AP", ".4f", absent=UNDEFINED, high_first=False),
        Column("AP50", ".4f", absent=UNDEFINED, high_first=False),
        *_count_columns(),
        Column("taken for", note="what its objects are most often confused with", high_first=False),
    ]
    rows = [_class_row(each) for each in measured.classes[:LISTED_CLASSES]]
    sentences = [f"Errors are counted from score {measured.score:.4f} on."]
    if len(rows) < len(measured.classes):
        sentences.append(f"These are the {len(rows)} classes of the lowest AP; report.json has all.")
    return Section("Classes, worst first", [Table(columns, rows, sorted_by=2)], sentences=sentences)


def _class_row(each: ClassReport) -> list[Value]:
    taken = None if each.taken_for is None else f"{each.taken_for[0]} ({each.taken_for[1]})"
    return [each.name, each.objects, each.AP, each.AP50, *(each.counts[kind] for kind in Kind), taken]


def _images_section(measured: Measured, examples: Sequence[Example], hint: str) -> Section:
    title = "Worst images"
    if not measured.images:
        return Section(title, sentences=[f"No image has an error from score {measured.score:.4f} on."])
    columns = [Column("image", high_first=False), Column("errors", ","), Column("objects", ","), *_count_columns()]
    rows = [_image_row(measured, each) for each in measured.images[:LISTED_IMAGES]]
    sentences = [
        f"{len(measured.images):,} of {len(measured.dataset.images):,} images have errors from score "
        f"{measured.score:.4f} on; here are the {len(rows)} with most."
    ]
    if examples:
        sentences.append("Left the objects, right the detections, each in the colour of its kind.")
    elif hint:
        sentences.append(hint)
    table = Table(columns, rows, sorted_by=1, rising=False)
    return Section(title, [table], sentences=sentences, examples=examples)


def _image_row(measured: Measured, each: ImageReport) -> list[Value]:
    name = measured.dataset.images[each.index].file_name
    return [name, each.errors, each.objects, *(each.counts[kind] for kind in Kind)]


def _count_columns() -> list[Column]:
    return [Column(kind.label, ",") for kind in Kind]


def _rgb(kind: Kind) -> tuple[float, float, float]:
    red, green, blue = palette_color(PALETTE[kind])
    return red / 255, green / 255, blue / 255


def _css(kind: Kind) -> str:
    return f"rgb{palette_color(PALETTE[kind])}"
