"""``detheads data``: look at, check, convert, augment, draw and generate datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from detheads.cli.datasets import read_split
from detheads.cli.output import JsonFlag, emit, steps, table
from detheads.data.layout import known_layouts

if TYPE_CHECKING:
    from detheads.data import Dataset

app = typer.Typer(help="Look at, check, convert, augment, draw and generate datasets.", no_args_is_help=True)

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A COCO-style, Roboflow or YOLO folder.")]
SplitName = Annotated[str | None, typer.Option("--split", help="The split; the training split without it.")]


def _read(folder: Path, split: str | None) -> "Dataset":
    """Read a split and say what was repaired."""
    return read_split(folder, split)


def _known_layout(name: str) -> str:
    if name not in known_layouts():
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, known_layouts()))}.")
    return name


@app.command()
def info(dataset: DatasetFolder, split: SplitName = None, as_json: JsonFlag = False) -> None:
    """Count images, boxes, classes and sizes."""
    from detheads.data import list_splits
    from detheads.data.summary import summarize

    result = summarize(_read(dataset, split)) | {"splits": list_splits(dataset)}
    emit(result, as_json, lambda console: _print_info(console, result))


def _print_info(console: Console, result: dict[str, Any]) -> None:
    console.print(f"{result['dataset']}, split {result['split']} of: {', '.join(result['splits'])}", markup=False)
    rows: list[tuple[str, object]] = [
        ("images", result["images"]),
        ("images without objects", result["images_without_objects"]),
        ("boxes", result["boxes"]),
        ("crowd boxes", result["crowd_boxes"]),
        ("most boxes in an image", result["most_boxes_in_an_image"]),
    ]
    for name in ("image_width", "image_height", "box_width", "box_height"):
        if (span := result[name]) is not None:
            text = f"{span['min']:.0f} .. {span['median']:.0f} .. {span['max']:.0f} px"
            rows.append((f"{name.replace('_', ' ')} (min .. median .. max)", text))
    rows.append(("object sizes", ", ".join(f"{count} {name}" for name, count in result["object_sizes"].items())))
    rows += [(f"dropped: {reason}", count) for reason, count in result["dropped"].items()]
    if result["clipped"]:
        rows.append(("boxes clipped to their image", result["clipped"]))
    console.print(table(("", ""), rows))
    classes = [(entry["id"], entry["name"], entry["boxes"], entry["images"]) for entry in result["classes"]]
    console.print(table(("id", "class", "boxes", "images"), classes))


@app.command()
def validate(dataset: DatasetFolder, split: SplitName = None, as_json: JsonFlag = False) -> None:
    """Decode every image and check every annotation; exit code 1 when there are errors."""
    from detheads.data.validate import validate_dataset

    with steps() as on_progress:
        report = validate_dataset(dataset, split, on_progress)
    result = report.as_json()
    emit(result, as_json, lambda console: _print_report(console, result))
    if not report.usable:
        raise typer.Exit(1)


def _print_report(console: Console, result: dict[str, Any]) -> None:
    for problem in result["problems"]:
        more = f" ({problem['count']} of this kind)" if problem["count"] > 1 else ""
        console.print(f"{problem['severity']}: {problem['file']}: {problem['sentence']}{more}.", markup=False)
    console.print(
        f"{result['dataset']} {result['split']}: {result['images']} images, {result['boxes']} boxes, "
        f"{result['errors']} errors, {result['warnings']} warnings, {result['notes']} notes."
    )


@app.command()
def convert(
    dataset: DatasetFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write; new or empty.")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="|".join(known_layouts()), callback=_known_layout, help="The layout to write."),
    ] = "coco",
    split: Annotated[str | None, typer.Option("--split", help="The split; all splits without it.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Hard-link the images instead of copying them.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a dataset in another layout."""
    from detheads.data import list_splits
    from detheads.data.convert import convert_dataset

    names = [split] if split is not None else list_splits(dataset)
    splits = [_read(dataset, name) for name in names]
    with steps() as on_progress:
        conversion = convert_dataset(splits, output, to, link=link, on_progress=on_progress)
    left_out = sum((part.dropped for part in splits), +conversion.left_out)
    result = {
        "output": str(output),
        "layout": to,
        "splits": [part.split for part in splits],
        "images": conversion.images,
        "boxes": conversion.boxes,
        "changed_boxes": dict(left_out),
    }
    lines = [f"{output}: {conversion.images} images, {conversion.boxes} boxes as {to}."]
    lines += [f"boxes {reason}: {count}" for reason, count in left_out.items()]
    emit(result, as_json, lambda console: console.print("\n".join(lines), markup=False))


@app.command()
def augment(
    dataset: DatasetFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write; new or empty.")],
    split: SplitName = None,
    copies: Annotated[int, typer.Option("--copies", help="Altered copies of each image.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives other copies.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write a training split and altered copies of it: colours, zoom out, crops, mirror images."""
    from detheads.data.augment import augment_dataset

    original = _read(dataset, split)
    with steps() as on_progress:
        augmented = augment_dataset(original, output, copies, seed=seed, on_progress=on_progress)
    result = {
        "output": str(output),
        "split": augmented.split,
        "images": len(augmented.images),
        "boxes": sum(len(objects.boxes) for objects in augmented.objects),
    }
    line = f"{output}: {result['images']} images, {result['boxes']} boxes, split {augmented.split}."
    emit(result, as_json, lambda console: console.print(line, markup=False))


@app.command()
def draw(
    dataset: DatasetFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write pictures to.")],
    split: SplitName = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many pictures, spread over the split.")] = 16,
    as_json: JsonFlag = False,
) -> None:
    """Draw the annotated boxes onto pictures."""
    from detheads.data.pictures import load_picture
    from detheads.foundation.atomic import replacing
    from detheads.foundation.drawing import draw_boxes

    data = _read(dataset, split)
    total = min(count, len(data.images))
    chosen = [index * len(data.images) // total for index in range(total)]
    pictures: list[str] = []
    with steps() as on_progress:
        for done, index in enumerate(chosen, start=1):
            image, objects = data.images[index], data.objects[index]
            names = [data.class_names[label] for label in objects.labels]
            drawn = draw_boxes(load_picture(image), objects.boxes, names, objects.labels)
            path = output / f"{image.id}_{image.path.stem}.jpg"
            with replacing(path) as partial:
                drawn.save(partial, quality=92)
            pictures.append(str(path))
            on_progress("drawing", done, total)
    result = {"output": str(output), "split": data.split, "pictures": pictures}
    emit(result, as_json, lambda console: console.print(f"{output}: {total} pictures.", markup=False))


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

    with steps() as on_progress:
        generate(output, train, val, size, seed, on_progress)
    names = [kind.name for kind in CLASSES]
    result = {"output": str(output), "train": train, "val": val, "size": size, "seed": seed, "classes": names}
    emit(result, as_json, lambda console: console.print(f"{output}: {train} + {val} scenes.", markup=False))
