"""``detheads demo``: ``detheads make`` on generated scenes."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detheads.cli.checks import require_outputs
from detheads.cli.make import print_made
from detheads.cli.output import JsonFlag, emit, remark, steps


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything it makes.")] = Path(
        "detheads-demo"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 12,
    as_json: JsonFlag = False,
) -> None:
    """'detheads make' on generated scenes: cache, train, evaluate, export, prove, draw. Offline."""
    require_outputs(folders=[output])

    from detheads.demo import run_demo

    remark(f"everything goes to {output}; run again to continue an interrupted demo")
    with steps() as on_progress:
        result = run_demo(output, epochs=epochs, on_progress=on_progress, on_remark=remark)

    def render(console: Console) -> None:
        print_made(console, result.made)
        console.print(f"picture  {result.picture}")

    emit(asdict(result.made) | {"picture": str(result.picture)}, as_json, render)
