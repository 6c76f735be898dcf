"""``detheads recipe ladder``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detheads.cli.checks import possible_threads, require_caches, require_existing, require_outputs
from detheads.cli.options import HeadFiles, SeedsOption, parse_seeds
from detheads.cli.output import JsonFlag, emit, progress, remark
from detheads.cli.train import HeadOptions, ReadersOption, parse_options
from detheads.foundation.errors import UserError
from detheads.training.config import Mirror, Precision
from detheads.training.recipes.following import with_epochs
from detheads.training.recipes.recipe import ladder as lineage
from detheads.training.recipes.recipe import read_recipe

if TYPE_CHECKING:
    from detheads.training.status import Status, TrainResult
    from detheads.training.trainer import Trainer


def ladder(
    cache: Annotated[
        list[Path],
        typer.Option(help="Feature cache to train on: one for all steps, or one for each input size, smallest first."),
    ],
    val: Annotated[list[Path], typer.Option(help="Feature cache to evaluate on, one for each --cache.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the ladder; started again it goes on.")],
    recipe: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE]...", help="The steps: names or files; the source's lineage when left out."),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Class embeddings: one file for all steps, or one for each encoder; none: learned ones."),
    ] = None,
    seeds: SeedsOption = "0",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="The same first stage for all steps; others stay in proportion to it.")
    ] = None,
    scale: Annotated[
        float, typer.Option(min=0.01, max=1000, help="Instead: all epochs of the recipes times this.")
    ] = 1.0,
    option: HeadOptions = None,
    head_file: HeadFiles = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step, instead of the recipes'.")] = None,
    mirror: Annotated[
        Mirror | None,
        typer.Option(metavar="WHAT", help="images, features, none or auto, instead of the recipes'; see train."),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(metavar="MODE", help="fp32, bf16, fp16 or auto, instead of the recipes'.")
    ] = None,
    readers: ReadersOption = None,
    threads: Annotated[int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Train a lineage step by step on the same data, and set its table beside the source's."""
    require_caches(*cache, *val)
    require_existing(*(text or ()))
    require_outputs(folders=[output])
    if epochs is not None and scale != 1.0:
        raise UserError("--epochs gives all steps the same schedule, --scale each its own; give one of them.")
    recipes = [read_recipe(name) for name in recipe] if recipe else lineage()
    recipes = [with_epochs(each, first=epochs, scale=scale) for each in recipes]
    chosen = {"batch": batch, "mirror": mirror, "precision": precision}
    training = {name: value for name, value in chosen.items() if value is not None}

    from detheads.arena.ladder import PAGE_NAME, Watch, climb, rungs_of
    from detheads.arena.ladder_page import page_lines
    from detheads.ops.devices import use_threads

    use_threads(threads)
    rungs = rungs_of(recipes, cache, val, text or (), training, parse_options(option or []))
    picked = parse_seeds(seeds) or (0,)
    with progress() as bar:

        def on_stage(name: str, trainer: "Trainer") -> "TrainResult":
            task = bar.add_task(name, total=trainer.total_steps)

            def on_step(status: "Status") -> None:
                bar.update(task, completed=status.step)

            result = trainer.fit(on_step)
            bar.update(task, completed=trainer.total_steps)
            return result

        rows = climb(rungs, output, picked, device=device, readers=readers, watch=Watch(on_stage))
    remark(f"{output / PAGE_NAME}")
    answer: dict[str, Any] = {"ladder": str(output), "seeds": picked, "rows": [row.model_dump() for row in rows]}
    emit(answer, as_json, lambda console: console.print(*page_lines(rows, picked)[2:], sep="\n"))
