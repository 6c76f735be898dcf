"""What commands print: results on standard output, progress and remarks on standard error."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from detheads.foundation.text import json_text, visible

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output.")]

_json_stream: ContextVar[TextIO | None] = ContextVar("_json_stream", default=None)
"""Where the JSON value goes while standard output is closed to everything else."""


class PlainConsole(Console):
    """A console on which text is text: no markup, no emoji codes, and what acts on a terminal is shown as its escape.

    A string is one line; several are printed with ``print(*lines, sep="\\n")``.
    """

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = True) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(Text(visible(item)) if isinstance(item, str) else item for item in objects), **options)


def remark(*lines: str) -> None:
    """Lines for the human on standard error."""
    PlainConsole(stderr=True).print(*lines, sep="\n")


def emit(result: Any, as_json: bool, render: Callable[[Console], None]) -> None:
    """Print ``result`` as JSON, or call ``render`` with a console on standard output."""
    if as_json:
        print_json(result)
    else:
        render(PlainConsole())


def print_json(value: Any) -> None:
    """Print one JSON value, in ASCII where the output's encoding has not all its characters."""
    stream = _json_stream.get() or sys.stdout
    text = json_text(value)
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    stream.write(text + "\n")
    stream.flush()


@contextmanager
def only_json() -> Iterator[None]:
    """Let nothing but :func:`print_json` write to standard output: libraries that do write to standard error."""
    token = _json_stream.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _json_stream.reset(token)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A plain rich table."""
    result = Table(title=title and Text(visible(title)), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        result.add_column(Text(visible(column)))
    for row in rows:
        result.add_row(*(Text(visible(str(cell))) for cell in row))
    return result


class _Step(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(visible(task.description))


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s")


def progress(unit: str = "") -> AbstractContextManager[Progress]:
    """A progress display with counts, elapsed time and ETA on standard error, and where they have a unit the speed."""
    return Progress(
        _Step(),
        BarColumn(),
        MofNCompleteColumn(),
        *([_Speed(unit)] if unit else []),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=PlainConsole(stderr=True, soft_wrap=False),
        transient=False,
    )


@contextmanager
def steps(unit: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """A progress display with one line for each named step; a step of unknown length pulses until the next begins.

    Args:
        unit: what is counted, to show its speed.
    """
    with progress(unit) as bar:
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
