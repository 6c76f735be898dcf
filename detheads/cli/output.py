"""What commands print: results on standard output, progress and remarks on standard error."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output.")]


def remark(message: str) -> None:
    """A line for the human on standard error."""
    Console(stderr=True, highlight=False).print(message, markup=False, soft_wrap=True)


def emit(result: Any, as_json: bool, render: Callable[[Console], None]) -> None:
    """Print ``result`` as JSON, or call ``render`` with a console on standard output."""
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False, indent=2))
    else:
        render(Console(highlight=False, soft_wrap=True))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A plain rich table."""
    result = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        result.add_row(*(str(cell) for cell in row))
    return result


def progress() -> AbstractContextManager[Progress]:
    """A progress display with counts, elapsed time and ETA on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=False,
    )
