"""``detheads recipe run``: from the pictures to a proven bundle, as a recipe has it."""

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cache.manifest import StorageType
from detheads.cli.checks import require_outputs
from detheads.cli.options import WeightsOption
from detheads.cli.output import JsonFlag, PlainConsole, emit, remark
from detheads.foundation.atomic import sized
from detheads.foundation.errors import UserError
from detheads.training.recipes.plan import COCO_IMAGES, Place, Work, left, plan
from detheads.training.recipes.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from detheads.backbones.features import FeatureSpec
    from detheads.cache.manifest import Settings
    from detheads.training.recipes.plan import Costs

TERA = 1e12
COCO_CLASSES = 80


def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A name of 'detheads recipe list', or a file that ends in .toml.")
    ],
    data: Annotated[Path, typer.Option(help="Dataset folder, such as COCO's.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of all that is made; recipes may share it.")],
    train_split: Annotated[str, typer.Option(help="Name of the training split.")] = "train2017",
    val_split: Annotated[str, typer.Option(help="Name of the validation split.")] = "val2017",
    weights: WeightsOption = None,
    clip_weights: Annotated[
        Path | None, typer.Option(help="Weight file of the text encoder, instead of a download.")
    ] = None,
    mirror: Annotated[
        str,
        typer.Option(metavar="images|features", help="What stands for mirrored images: features takes half the disk."),
    ] = "images",
    dtype: Annotated[StorageType, typer.Option(help="How features are stored; int8 takes half the disk.")] = "fp16",
    tflops: Annotated[
        float, typer.Option(min=0.001, help="Speed that --dry-run reckons with, in 10^12 operations a second.")
    ] = 200.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at paths, sizes and free space, print the commands, run nothing.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Cache, embed, train, evaluate, export and verify as a recipe says; started again it goes on.

    With --dry-run the exit code is 1 when anything is missing, and all that is missing is told.
    """
    if mirror not in ("images", "features"):
        raise UserError(f"--mirror is images or features, not {mirror!r}.")
    found = read_recipe(recipe)
    require_outputs(folders=[output])
    place = Place(data, output, (train_split, val_split), weights, clip_weights, mirror == "features", dtype)
    images, classes, faults = _look_at(place)
    settings, costs = reckoned(found, classes)
    works = plan(found, recipe, place, images, settings, costs)
    free = _free(output)
    if left(works) > free:
        faults.append(f"{output} has {sized(free)} free, and {sized(left(works))} are to be written")
    if not dry_run:
        if faults:
            raise UserError(f"{'; '.join(faults)}.")
        _run_all(works)
        answer: dict[str, object] = {"recipe": found.name, "run": str(output / found.name)}
        emit(answer, as_json, lambda console: None)
        return
    seconds = [work.flops / (tflops * TERA) for work in works]
    commands = [
        {"command": work.line, "done": work.done, "bytes": work.bytes, "seconds": time, "arithmetic": work.arithmetic}
        for work, time in zip(works, seconds, strict=True)
    ]
    answer = {"recipe": found.name, "images": images, "commands": commands, "bytes": left(works), "free": free}
    emit(answer | {"faults": faults}, as_json, lambda console: _render(console, works, seconds, free, tflops))
    if faults:
        remark(*(f"missing: {fault}" for fault in faults))
        raise typer.Exit(1)


def _look_at(place: Place) -> tuple[tuple[int, int], int, list[str]]:
    """Pictures of both splits, the number of classes, and what is missing."""
    faults = [f"{path} does not exist" for path in (place.weights, place.clip_weights) if path and not path.exists()]
    if not place.data.exists():
        faults.append(f"{place.data} does not exist; it is reckoned with the pictures of COCO")
        return COCO_IMAGES, COCO_CLASSES, faults
    from detheads.data import read_dataset

    counts, classes = list(COCO_IMAGES), COCO_CLASSES
    names: list[list[str]] = []
    for number, split in enumerate(place.splits):
        try:
            with PlainConsole(stderr=True).status(f"reading {split}"):
                dataset = read_dataset(place.data, split, skip_bad=True)
        except UserError as error:
            faults.append(str(error).rstrip("."))
            continue
        counts[number], classes = len(dataset.images), len(dataset.categories)
        names.append(dataset.class_names)
        for path, why in list(dataset.skipped.items())[:1]:
            more = f" (the first of {len(dataset.skipped):,})" if len(dataset.skipped) > 1 else ""
            faults.append(f"{path} cannot be used: {why.rstrip('.')}{more}")
    if len(names) == len(counts) and names[0] != names[1]:
        faults.append(f"the splits {' and '.join(place.splits)} of {place.data} have other classes")
    return (counts[0], counts[1]), classes, faults


def reckoned(recipe: Recipe, classes: int) -> "tuple[Settings, Costs]":
    """What the recipe's caches hold, and what backbone and head compute for an image; without any weights."""
    from detheads.headkit import registry
    from detheads.headkit.cost import measure
    from detheads.training.recipes.plan import Costs

    blocks = registry.entry(recipe.head).head.blocks
    settings, spec, parameters, flops = _backbone(recipe.features.backbone, recipe.features.size, blocks)
    cost = measure(registry.build(recipe.head, spec, classes, recipe.options), spec)
    return settings, Costs(flops, parameters, cost.flops, cost.parameters)


@cache
def _backbone(name: str, side: int, blocks: tuple[int, ...]) -> "tuple[Settings, FeatureSpec, int, int]":
    """What a backbone's caches hold, its features, parameters and operations; built without weights."""
    import torch

    from detheads.backbones.backbone import load_backbone
    from detheads.backbones.cost import backbone_cost
    from detheads.cache.builder import settings_for

    with torch.device("meta"):
        backbone = load_backbone(name, (side, side), random_weights=True, blocks=blocks)
    return settings_for(backbone), backbone.feature_spec, *backbone_cost(backbone)


def _free(folder: Path) -> int:
    """Bytes that the disk has on which a folder is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _run_all(works: Sequence[Work]) -> None:
    """Run the commands of a plan one after the other; what is there already is not made again.

    Raises:
        UserError: at the first that fails, which has said why.
    """
    from detheads.cli.main import run as run_line

    for place, work in enumerate(works, start=1):
        remark(f"{place} of {len(works)}: {work.line}")
        if work.done:
            remark(f"{work.makes} is there")
        elif run_line(list(work.words)):
            raise UserError(f"this command failed, as it says above: {work.line}; put that right and run again.")


def _render(console: Console, works: Sequence[Work], seconds: Sequence[float], free: int, tflops: float) -> None:
    for work, time in zip(works, seconds, strict=True):
        console.print(work.line)
        told = [f"writes {sized(work.bytes)}"] if work.bytes else []
        told += [f"about {_duration(time)}"] if work.flops else []
        told += [work.arithmetic] if work.arithmetic else []
        console.print(f"    {'is there' if work.done else '; '.join(told)}")
    ahead = sum(time for work, time in zip(works, seconds, strict=True) if not work.done)
    console.print(
        f"{sized(left(works))} to write, {sized(free)} free; {_duration(ahead)} of computing at {tflops:g} TFLOPS, to "
        "which reading and decoding come"
    )


def _duration(seconds: float) -> str:
    if seconds < 2 * 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 2 * 60 * 60 else f"{seconds / 60 / 60:.1f} hours"
