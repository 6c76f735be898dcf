"""What commands print: results on standard output, progress and remarks on standard error."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
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


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A progress display with one line for each named step; a step of unknown length pulses until the next begins."""
    with progress() as bar:
        tasks: dict[str, TaskID] = {}

        def advance(step: str, done: int, total: int) -> None:
            if step not in tasks:
                for task in tasks.values():
                    bar.update(task, total=bar.tasks[task].total or 1, completed=bar.tasks[task].total or 1)
                tasks[step] = bar.add_task(step, total=total or None)
            bar.update(tasks[step], completed=done, total=total or None)

        yield advance
        for task in tasks.values():
            bar.update(task, total=bar.tasks[task].total or 1, completed=bar.tasks[task].total or 1)
