"""``detheads data``: look at, check, draw and generate datasets; those that rewrite one stand in ``rewrite.py``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from detheads.cli import rewrite
from detheads.cli.datasets import (
    DatasetFolder,
    ForeignFormat,
    SplitName,
    read_split,
    remark_pictures,
    remark_skipped,
    require_output,
)
from detheads.cli.options import FontOption, SkipBad, parse_size
from detheads.cli.output import JsonFlag, emit, remark, steps, table
from detheads.data.findings import counted

app = typer.Typer(help="Look at, check, convert, split, augment, draw and generate datasets.", no_args_is_help=True)

app.command()(rewrite.convert)
app.command("split")(rewrite.split)
app.command()(rewrite.augment)


@app.command()
def info(dataset: DatasetFolder, split: SplitName = None, skip_bad: SkipBad = False, as_json: JsonFlag = False) -> None:
    """Count images, boxes, classes and sizes."""
    from detheads.data import list_splits
    from detheads.data.summary import summarize

    result = summarize(read_split(dataset, split, skip_bad=skip_bad)) | {"splits": list_splits(dataset)}
    emit(result, as_json, lambda console: _print_info(console, result))


def _print_info(console: Console, result: dict[str, Any]) -> None:
    console.print(f"{result['dataset']}, split {result['split']} of: {', '.join(result['splits'])}")
    rows: list[tuple[str, object]] = [
        ("images", result["images"]),
        ("images without objects", result["images_without_objects"]),
        ("boxes", result["boxes"]),
        ("crowd boxes", result["crowd_boxes"]),
        ("most boxes in an image", result["most_boxes_in_an_image"]),
    ]
    for name in ("image_width", "image_height", "box_width", "box_height"):
        span = result[name]
        text = f"{span['min']:.0f} .. {span['median']:.0f} .. {span['max']:.0f} px" if span is not None else "undefined"
        rows.append((f"{name.replace('_', ' ')} (min .. median .. max)", text))
    sizes = ", ".join(f"{count} {name}" for name, count in result["object_sizes"].items())
    rows.append(("objects by COCO's sizes (borders 32x32, 96x96 px)", sizes))
    rows += [(f"dropped: {reason}", count) for reason, count in result["dropped"].items()]
    if result["clipped"]:
        rows.append(("boxes clipped to their image", result["clipped"]))
    console.print(table(("", ""), rows))
    classes = [(entry["id"], entry["name"], entry["boxes"], entry["images"]) for entry in result["classes"]]
    console.print(table(("id", "class", "boxes", "images"), classes))


@app.command()
def validate(
    dataset: DatasetFolder,
    split: Annotated[str | None, typer.Option("--split", help="The only split to check; all without it.")] = None,
    source: ForeignFormat = None,
    size: Annotated[
        str | None,
        typer.Option(help="Input size in pixels to judge small objects for; the default backbone's when left out."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Decode every image, check every annotation, judge the whole; exit code 1 when there are errors."""
    from detheads.backbones.spec import SPECS
    from detheads.data.validate import validate_dataset

    default = SPECS["eupe_vitb16"].default_size
    with steps() as on_progress:
        report = validate_dataset(
            dataset,
            split,
            format_name=source,
            size=parse_size(size) or (default, default),
            on_progress=on_progress,
        )
    result = report.as_json()
    emit(result, as_json, lambda console: _print_report(console, result))
    if not report.usable:
        raise typer.Exit(1)


def _print_report(console: Console, result: dict[str, Any]) -> None:
    for part in result["splits"]:
        for problem in part["problems"]:
            more = f" ({problem['count']} of this kind)" if problem["count"] > 1 else ""
            console.print(f"{problem['severity']}: {problem['file']}: {problem['sentence']}{more}.")
    if result["judgement"]:
        console.print("The dataset as a whole:")
    for finding in result["judgement"]:
        console.print(f"  {finding['severity']}: {finding['kind']}: {finding['sentence']}.")
    for part in result["splits"]:
        console.print(f"{part['split']}: {counted(part['images'], 'image')}, {counted(part['boxes'], 'box')}.")
    console.print(
        f"{result['dataset']}: {counted(result['errors'], 'error')}, {counted(result['warnings'], 'warning')}, "
        f"{counted(result['notes'], 'note')}.",
    )


@app.command()
def draw(
    dataset: DatasetFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write pictures to.")],
    split: SplitName = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many pictures, spread over the split.")] = 16,
    font: FontOption = None,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Draw the annotated boxes onto pictures."""
    from detheads.data.pictures import load_picture
    from detheads.foundation.atomic import replacing, try_output
    from detheads.foundation.drawing import draw_boxes
    from detheads.foundation.errors import UserError
    from detheads.foundation.lettering import Lettering
    from detheads.foundation.text import file_name

    try_output(output, folder=True)

    data = read_split(dataset, split, skip_bad=skip_bad)
    lettering = Lettering(font)
    if sentence := lettering.missing(data.class_names):
        remark(sentence)
    total = min(count, len(data.images))
    chosen = [index * len(data.images) // total for index in range(total)]
    pictures: list[str] = []
    skipped: dict[str, str] = {}
    remarks: list[str] = []
    with steps() as on_progress:
        for done, index in enumerate(chosen, start=1):
            image, objects = data.images[index], data.objects[index]
            names = [data.class_names[label] for label in objects.labels]
            try:
                picture = load_picture(image, remarks.append)
                drawn = draw_boxes(picture, objects.boxes, names, objects.labels, lettering=lettering)
            except UserError as error:
                if not skip_bad:
                    raise
                skipped[str(image.path)] = str(error).removeprefix(str(image.path)).strip()
                continue
            path = output / file_name(f"{image.id}_{image.path.stem}.jpg")
            with replacing(path) as partial:
                drawn.save(partial, quality=92)
            pictures.append(str(path))
            on_progress("drawing", done, total)
    if skipped and not pictures:
        file, reason = next(iter(skipped.items()))
        raise UserError(f"none of {len(skipped)} pictures can be drawn; the first: {file}: {reason}")
    remark_skipped(skipped)
    remark_pictures(remarks)
    result = {
        "output": str(output),
        "split": data.split,
        "pictures": pictures,
        "skipped": dict(data.skipped) | skipped,
    }
    emit(result, as_json, lambda console: console.print(f"{output}: {len(pictures)} pictures."))


@app.command()
def scenes(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write; new or empty.")],
    train: Annotated[int, typer.Option("--train", help="Pictures of the training split.")] = 400,
    val: Annotated[int, typer.Option("--val", help="Pictures of the validation split.")] = 100,
    size: Annotated[int, typer.Option("--size", help="Long side of a picture in pixels.")] = 320,
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives other pictures.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Generate the embedded default dataset: textured objects on varied backgrounds."""
    from detheads.data.scenes import generate
    from detheads.data.shapes import CLASSES

    require_output(output)
    with steps() as on_progress:
        generate(output, train, val, size, seed, on_progress)
    names = [kind.name for kind in CLASSES]
    result = {"output": str(output), "train": train, "val": val, "size": size, "seed": seed, "classes": names}
    emit(result, as_json, lambda console: console.print(f"{output}: {train} + {val} scenes."))
