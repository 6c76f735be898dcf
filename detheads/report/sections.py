"""What a report is made of: sections of sentences, tables, plots and pictures, for a page and for Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detheads.report.pictures import Example

MISSING = "–"  # noqa: RUF001 - an en dash reads as "nothing here"

Value = str | float | int | bool | None
"""A cell's value; None where nothing defines one."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        pattern: how its numbers are written, such as ".3f".
        note: what it means.
        absent: how None reads; "undefined" for statistics, which no object may define.
        high_first: whether a first click on the page puts the high values first.
    """

    title: str
    pattern: str = ""
    note: str = ""
    absent: str = MISSING
    high_first: bool = True

    def cell(self, value: Value) -> str:
        """A value as text."""
        if value is None:
            return self.absent
        if isinstance(value, bool):
            return "yes" if value else ""
        return value if isinstance(value, str) else format(value, self.pattern)


@dataclass(frozen=True)
class Table:
    """Rows of values.

    Attributes:
        colors: a CSS colour for each row, shown before its first cell; empty for none.
        sorted_by: index of the column by which the rows are sorted; on the page a click sorts by any. None for a table
            that is not to be sorted.
        rising: whether they rise in it.
        tiles: on the page each row is a tile: what, and how much.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    colors: Sequence[str] = ()
    sorted_by: int | None = None
    rising: bool = True
    tiles: bool = False

    def is_text(self, place: int) -> bool:
        """Whether a column holds no number."""
        return not any(isinstance(row[place], int | float) for row in self.rows)


@dataclass(frozen=True)
class Plot:
    """A picture as PNG or SVG; ``name`` is that of its file beside the page, and its ending tells which."""

    title: str
    name: str
    data: bytes

    @property
    def kind(self) -> str:
        """Its media type."""
        return "image/svg+xml" if self.name.endswith(".svg") else "image/png"


@dataclass(frozen=True)
class Section:
    """A part of a report: its tables, plots, sentences, remarks and pictures, in this order. Texts have no markup."""

    title: str
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    sentences: Sequence[str] = ()
    remarks: Sequence[str] = ()
    examples: Sequence[Example] = ()
    strips: str = "strip"
    """Beginning of the names of the examples' files, which no other section with examples has."""


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        verdict: the outcome in a sentence or two.
        facts: what was measured on what, by title.
        answer: everything as JSON values.
    """

    title: str
    verdict: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    answer: Mapping[str, Any] = field(default_factory=dict)
