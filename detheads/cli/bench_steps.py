"""``detheads bench step``: what a training step of each head asks of its device."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from detheads.cli.checks import require_heads
from detheads.cli.options import HeadFiles
from detheads.cli.output import JsonFlag, emit, table
from detheads.cli.output import steps as progress_of_steps
from detheads.cli.train import HeadOptions, parse_options


def step(
    heads: Annotated[list[str] | None, typer.Argument(help="Heads; all that train where none is named.")] = None,
    head_file: HeadFiles = None,
    option: HeadOptions = None,
    images: Annotated[int, typer.Option(min=1, help="Images in the batch.")] = 16,
    objects: Annotated[int, typer.Option(min=0, help="Objects in each of them.")] = 7,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 80,
    ahead: Annotated[bool, typer.Option(help="Assign by geometry ahead of the step, as readers do.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Operations of a training step, and how often it makes the program wait for its device; counted, on any CPU."""
    require_heads(heads or [], head_file)

    from detheads.bench.steps import PARTS, bench_step
    from detheads.headkit import registry

    names = heads or sorted(registry.trainable())
    found = []
    with progress_of_steps() as on_progress:
        for number, name in enumerate(names):
            on_progress("heads", number, len(names))
            found.append(bench_step(name, parse_options(option or []), images, objects, classes, ahead=ahead))
        on_progress("heads", len(names), len(names))

    def render(console: Console) -> None:
        columns = ("head", *PARTS, "all", "waits")
        rows = [
            (
                result.head,
                *(str(result.parts[part].operations) for part in PARTS),
                str(result.total.operations),
                str(result.total.waits),
            )
            for result in found
        ]
        console.print(table(columns, rows))
        console.print(f"operations dispatched in one step of {images} images with {objects} objects each")

    emit([asdict(result) | {"total": asdict(result.total)} for result in found], as_json, render)
