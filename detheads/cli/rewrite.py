"""``detheads data convert``, ``split`` and ``augment``: datasets written anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from detheads.cli.datasets import (
    DatasetFolder,
    ForeignFormat,
    SplitName,
    read_foreign_splits,
    read_split,
    remark_skipped,
    require_output,
)
from detheads.cli.options import SkipBad
from detheads.cli.output import JsonFlag, emit, remark, steps, table
from detheads.data.layout import known_layouts

if TYPE_CHECKING:
    from detheads.data import Dataset


def _known_layout(name: str | None) -> str | None:
    if name is not None and name not in known_layouts():
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, known_layouts()))}.")
    return name


OutputFolder = Annotated[Path, typer.Option("-o", "--output", help="The folder to write; new or empty.")]
LayoutName = Annotated[
    str, typer.Option("--to", metavar="|".join(known_layouts()), callback=_known_layout, help="The layout to write.")
]
OwnLayoutName = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="|".join(known_layouts()),
        callback=_known_layout,
        help="The layout to write; the dataset's own without it, or coco.",
    ),
]
OneSplit = Annotated[str | None, typer.Option("--split", help="The split; all splits without it.")]
Link = Annotated[bool, typer.Option("--link", help="Hard-link the images instead of copying them.")]


def _read_splits(
    dataset: Path, split: str | None, output: Path, skip_bad: bool, source: str | None = None
) -> "list[Dataset]":
    """One split, or all of them; the output is looked at first, because reading may take a while."""
    from detheads.data import list_splits

    require_output(output)
    if source is not None:
        return read_foreign_splits(dataset, source, split, skip_bad=skip_bad)
    names = [split] if split is not None else list_splits(dataset)
    return [read_split(dataset, name, skip_bad=skip_bad) for name in names]


def convert(
    dataset: DatasetFolder,
    output: OutputFolder,
    to: LayoutName = "coco",
    source: ForeignFormat = None,
    split: OneSplit = None,
    link: Link = False,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a dataset in another layout, also one in another tool's format."""
    from detheads.data.convert import convert_dataset

    splits = _read_splits(dataset, split, output, skip_bad, source)
    with steps() as on_progress:
        conversion = convert_dataset(splits, output, to, link=link, skip_bad=skip_bad, on_progress=on_progress)
    remark_skipped(conversion.skipped)
    left_out = sum((part.dropped for part in splits), +conversion.left_out)
    result = {
        "output": str(output),
        "layout": to,
        "splits": [part.split for part in splits],
        "images": conversion.images,
        "boxes": conversion.boxes,
        "changed_boxes": dict(left_out),
        "skipped": _all_skipped(splits, conversion.skipped),
    }
    lines = [f"{output}: {conversion.images} images, {conversion.boxes} boxes as {to}."]
    lines += [f"boxes {reason}: {count}" for reason, count in left_out.items()]
    emit(result, as_json, lambda console: console.print(*lines, sep="\n"))


def split(
    dataset: DatasetFolder,
    output: OutputFolder,
    val: Annotated[float, typer.Option("--val", help="Share of the pictures for validation.")] = 0.2,
    test: Annotated[float, typer.Option("--test", help="Share of the pictures for a last test.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives other splits.")] = 0,
    to: OwnLayoutName = None,
    source: ForeignFormat = None,
    part: OneSplit = None,
    link: Link = False,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Divide a dataset into train, val and test; each class evenly, equal and nearly equal pictures kept together."""
    from detheads.data.layout import find_layout
    from detheads.data.split import split_dataset
    from detheads.data.summary import count_classes

    parts = _read_splits(dataset, part, output, skip_bad, source)
    layout = to or (find_layout(dataset) if source is None else "coco")
    with steps() as on_progress:
        division = split_dataset(
            parts, output, layout, val=val, test=test, seed=seed, link=link, skip_bad=skip_bad, on_progress=on_progress
        )
    remark_skipped(division.skipped)
    if division.largest_group > 0.1 * division.images:
        remark(f"{division.largest_group} of {division.images} pictures are nearly equal and stay in one split.")
    result = {
        "output": str(output),
        "layout": layout,
        "seed": seed,
        "splits": [
            {"split": made.split, "images": len(made.images), "classes": count_classes(made)}
            for made in division.splits
        ],
        "pictures_kept_together": division.kept_together,
        "skipped": _all_skipped(parts, division.skipped),
    }
    emit(result, as_json, lambda console: _print_division(console, result, division.images))


def _print_division(console: Console, result: dict[str, Any], images: int) -> None:
    made = result["splits"]
    rows: list[tuple[object, ...]] = [("pictures", *(part["images"] for part in made))]
    for same in zip(*(part["classes"] for part in made), strict=True):
        rows.append((f"boxes of {same[0]['name']}", *(entry["boxes"] for entry in same)))
    console.print(table(("", *(part["split"] for part in made)), rows))
    console.print(f"{result['output']}: {images} pictures as {result['layout']}.")


def augment(
    dataset: DatasetFolder,
    output: OutputFolder,
    split: SplitName = None,
    copies: Annotated[int, typer.Option("--copies", help="Altered copies of each image.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives other copies.")] = 0,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a training split and altered copies of it: colours, zoom out, crops, mirror images."""
    require_output(output)
    original = read_split(dataset, split, skip_bad=skip_bad)

    from detheads.data.augment import augment_dataset

    with steps() as on_progress:
        augmented = augment_dataset(original, output, copies, seed=seed, skip_bad=skip_bad, on_progress=on_progress)
    remark_skipped({name: why for name, why in augmented.skipped.items() if name not in original.skipped})
    result = {
        "output": str(output),
        "split": augmented.split,
        "images": len(augmented.images),
        "boxes": sum(len(objects.boxes) for objects in augmented.objects),
        "skipped": dict(augmented.skipped),
    }
    line = f"{output}: {result['images']} images, {result['boxes']} boxes, split {augmented.split}."
    emit(result, as_json, lambda console: console.print(line))


def _all_skipped(parts: "Sequence[Dataset]", later: dict[str, str]) -> dict[str, str]:
    """What was left out when reading and when writing: file or annotation -> why."""
    return {name: why for part in parts for name, why in part.skipped.items()} | later
