"""A ladder's table: what each of its steps reached, beside what its source says."""

from collections.abc import Sequence
from statistics import mean, stdev

from pydantic import BaseModel, ConfigDict

from detheads.report.markdown import plain, table_lines
from detheads.report.sections import Column, Table, Value
from detheads.training.recipes.recipe import Published


class Row(BaseModel):
    """A rung with its scores, in percent.

    Attributes:
        AP, AP50, AP_soft: a number for each seed; ``AP_soft`` with soft-NMS.
        gain: AP minus that of the rung before, for each seed; empty for the first, and where both are one training.
        minutes: of training and evaluations, all seeds and stages; nothing for what an earlier rung has trained.
        remarks: what is otherwise than the recipe says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    change: str
    published: Published | None
    AP: list[float]
    AP50: list[float]
    AP_soft: list[float]
    gain: list[float]
    parameters: int
    epochs: int
    input: str
    minutes: float
    remarks: list[str]


def page_lines(rows: Sequence[Row], seeds: Sequence[int]) -> list[str]:
    """The ladder as Markdown."""
    count = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}: mean ± sample deviation"
    lines = [
        "# The ladder",
        "",
        f"AP in percent, as the source has it; {count}. The published figures are of COCO at the published sizes: only "
        "the gains may be compared with those of other data.",
        "",
        *table_lines(Table(COLUMNS, [cells_of(row, previous) for row, previous in _pairs(rows)])),
    ]
    common = [remark for remark in rows[0].remarks if all(remark in row.remarks for row in rows)]
    remarks = {"all steps": common}
    remarks |= {row.recipe: [remark for remark in row.remarks if remark not in common] for row in rows}
    told = [f"- {plain(where)}: {plain('; '.join(said))}." for where, said in remarks.items() if said]
    return lines + (["", *told] if told else [])


COLUMNS = (
    Column("step", high_first=False),
    Column("published"),
    Column("its gain", "+.2f"),
    Column("AP"),
    Column("gain", note="the mean over the seeds of the difference to the step above with the same seed"),
    Column("AP50"),
    Column("soft-NMS"),
    Column("parameters", ","),
    Column("epochs"),
    Column("input"),
    Column("minutes", ".1f", "of training and evaluations; what an earlier step has trained is not counted again"),
)


def cells_of(row: Row, previous: Row | None) -> list[Value]:
    """A row's cells in the order of :data:`COLUMNS`."""
    said, above = row.published, previous.published if previous else None
    more = [(said.AP_averaged, "EMA"), (said.AP_soft, "soft")] if said else []
    published = ", ".join([f"{said.AP}", *(f"{value} {what}" for value, what in more if value)]) if said else None
    return [
        row.change,
        published,
        round(said.AP - above.AP, 2) if said and above else None,
        _spread(row.AP),
        _spread(row.gain, "+.2f") if row.gain else None,
        _spread(row.AP50),
        _spread(row.AP_soft),
        row.parameters,
        row.epochs,
        row.input,
        row.minutes,
    ]


def _spread(values: Sequence[float], pattern: str = ".2f") -> str:
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):{pattern}}{spread}"


def _pairs(rows: Sequence[Row]) -> list[tuple[Row, Row | None]]:
    """Each row with the one above it."""
    return list(zip(rows, [None, *rows], strict=False))
