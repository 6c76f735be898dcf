"""The leaderboard of an arena: its entries, the Pareto front, and the table as Markdown and CSV. Torch-free."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from detheads.arena.records import STATUSES, Row, Setting, Status
from detheads.evaluation.coco import NAMES, UNDEFINED
from detheads.report.markdown import plain, section_lines, table_lines
from detheads.report.sections import MISSING, Column, Section, Table, Value


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard; None is unknown or undefined. The fields are the columns of the CSV file.

    Attributes:
        AP, AP50, AP75, APs, APm, APl: in ``[0, 1]``, means where there are several seeds.
        precision, false_detections: of the detections that find half of the objects; the latter an image.
        spread: sample standard deviation of AP over the seeds; None for one.
        seeds: how many.
        parameters, gflops: of the head, one image.
        milliseconds: of the head in ONNX Runtime, one image, one thread.
        steps: of each training.
        minutes: of training and evaluations.
        best_epoch: 1-based.
        pareto: no other head has both as few parameters and as high an AP, and one of them better.
    """

    head: str
    status: Status
    AP: float | None
    spread: float | None
    seeds: int
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    precision: float | None
    false_detections: float | None
    parameters: int | None
    gflops: float | None
    milliseconds: float | None
    steps: int | None
    minutes: float | None
    best_epoch: int | None
    nms_free: bool | None
    pareto: bool
    error: str | None


COLUMNS: Mapping[str, Column] = {
    "head": Column("head", high_first=False),
    "AP": Column("AP", ".3f", "mean over IoU 0.50:0.95 on the validation images, at the best epoch", UNDEFINED),
    "AP50": Column("AP50", ".3f", "AP at IoU 0.50", UNDEFINED),
    "AP75": Column("AP75", ".3f", "AP at IoU 0.75", UNDEFINED),
    "precision": Column("precision", ".3f", "where half of the objects are found at IoU 0.5", UNDEFINED),
    "false_detections": Column("false", ".2f", "wrong detections an image, there", UNDEFINED, high_first=False),
    "parameters": Column("parameters", ",", "of the head, without the backbone", high_first=False),
    "gflops": Column("GFLOPs", ".2f", "of the head, one image", high_first=False),
    "milliseconds": Column(
        "ms", ".1f", "ONNX Runtime, one image, one thread, without backbone and suppression", high_first=False
    ),
    "steps": Column("steps", ",", "of the optimiser, each training"),
    "minutes": Column("minutes", ".1f", "training and evaluations", high_first=False),
    "best_epoch": Column("best epoch", high_first=False),
    "spread": Column("spread", ".3f", "sample standard deviation of AP over the seeds, where there are several"),
    "nms_free": Column("NMS-free", note="needs no suppression of duplicates"),
    "pareto": Column("Pareto", note="no other head is as small and as good, and better in one of the two"),
}
"""The columns of the printed tables, by the entry's field."""


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the points (cost, value) that no other point beats: as cheap and as good, and better in one.

    Equal points do not beat each other.
    """
    front: set[int] = set()
    last: tuple[float, float] | None = None
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if last is None or points[index][1] > last[1] or points[index] == last:
            front.add(index)
            last = points[index]
    return front


def leaderboard(rows: Iterable[Row]) -> list[Entry]:
    """An entry a row, in the order of the rows."""
    rows = list(rows)
    placed = [(row.head, row.parameters, ap) for row in rows if (ap := _ap(row)) is not None and row.parameters]
    front = pareto_front([(float(parameters), ap) for _, parameters, ap in placed])
    on_front = {placed[index][0] for index in front}
    return [
        Entry(
            head=row.head,
            status=row.status,
            **{name: row.metrics.get(name) for name in (*NAMES[:6], "precision", "false_detections")},
            spread=row.spread,
            seeds=max(1, len(row.seeds)),
            parameters=row.parameters,
            gflops=row.gflops,
            milliseconds=row.milliseconds,
            steps=row.steps,
            minutes=None if row.seconds is None else round(row.seconds / 60, 2),
            best_epoch=row.best_epoch,
            nms_free=row.nms_free,
            pareto=row.head in on_front,
            error=row.error,
        )
        for row in rows
    ]


def facts(setting: Setting) -> dict[str, str]:
    """What all heads have in common, by title."""
    training = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in setting.training.items())
    return {
        "Data": f"{setting.dataset}: {setting.train_images:,} training and {setting.val_images:,} validation images",
        "Classes": f"{len(setting.classes)}: {', '.join(setting.classes)}",
        "Features": f"{setting.backbone}, input {setting.width} x {setting.height} pixels",
        "Budget": training,
        "Seeds": ", ".join(map(str, setting.seeds)) or "one, so that near heads cannot be told apart",
        "Text": f"class embeddings {setting.text_sha256[:12]}" if setting.text_sha256 else "no class embeddings",
        "Machine": setting.machine,
        "Versions": ", ".join(f"{name} {version}" for name, version in setting.versions.items()),
    }


def verdict(entries: Sequence[Entry]) -> str:
    """The outcome in a sentence or two."""
    done = [entry for entry in entries if entry.status == "done"]
    heads = f"{len(entries)} {'head' if len(entries) == 1 else 'heads'}"
    if not done:
        every = "all failed" if all(entry.status == "failed" for entry in entries) else "none of which finished"
        return f"{heads}, {every}."
    others = {status: sum(entry.status == status for entry in entries) for status in STATUSES if status != "done"}
    count = ", ".join([heads, *(f"{number} {status}" for status, number in others.items() if number)])
    if done[0].AP is None:
        return f"{count}. AP is undefined: the validation images show no object."
    front = sorted((entry for entry in done if entry.pareto), key=lambda entry: entry.parameters or 0)
    names = ", ".join(entry.head for entry in front)
    return f"{count}. {_best(done)} Pareto front, smallest first: {names}."


def beyond_spread(better: Entry, other: Entry) -> bool:
    """Whether one head's mean AP is above another's by more than the spreads of both together."""
    if better.AP is None or other.AP is None or better.spread is None or other.spread is None:
        return False
    return better.spread + other.spread < better.AP - other.AP


def _best(done: Sequence[Entry]) -> str:
    """Which head is best, and whether the seeds bear that out."""
    first = done[0]
    if first.spread is None:
        return f"Best: {first.head} with AP {first.AP:.3f}."
    reached = f"{first.head} with AP {first.AP:.3f} ± {first.spread:.3f} over {first.seeds} seeds"
    near = [entry.head for entry in done[1:] if not beyond_spread(first, entry)]
    if not near:
        return f"Best: {reached}, beyond the spread."
    return f"Highest mean: {reached}; within the spread are {', '.join(near)}, which are not shown to be worse."


def markdown(setting: Setting, entries: Sequence[Entry], sections: Sequence[Section] = ()) -> str:
    """The leaderboard as Markdown, with what all heads have in common above the table, and further sections below."""
    lines = [f"# Arena: {plain(setting.dataset)}", "", plain(verdict(entries)), ""]
    lines += [f"- {title}: {plain(text)}" for title, text in facts(setting).items()]
    table = Table(list(COLUMNS.values()), [_values(entry) for entry in entries])
    lines += ["", *table_lines(table)]
    for section in sections:
        lines += ["", *section_lines(section)]
    return "\n".join(lines) + "\n"


def _values(entry: Entry) -> list[Value]:
    """A line of the Markdown table."""
    values: list[Value] = [getattr(entry, key) for key in COLUMNS]
    if entry.status != "done":
        values = [MISSING if value is None else value for value in values]
        values[0] = f"{entry.head} ({entry.status}: {entry.error or 'no reason known'})"
    return values


def csv_text(entries: Sequence[Entry]) -> str:
    """The leaderboard as CSV: all fields of an entry, unrounded, unknown ones empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(Entry)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in entries)
    return stream.getvalue()


def _ap(row: Row) -> float | None:
    return row.metrics.get("AP") if row.status == "done" else None
