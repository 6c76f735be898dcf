"""``detheads text``: embeddings of classes, from their names or from a few of their boxes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from detheads.cli.checks import require_existing, require_outputs, require_run
from detheads.cli.options import (
    BackboneFile,
    ClassesOption,
    HeadFiles,
    SkipBad,
    WeightsOption,
    parse_classes,
    require_once,
)
from detheads.cli.output import JsonFlag, emit, remark, steps
from detheads.foundation.errors import UserError, suggest

app = typer.Typer(help="Embeddings of classes, from names or from boxes.", no_args_is_help=True)

OutputOption = Annotated[
    Path, typer.Option("-o", "--output", help="File to write: .npz with names and embeddings.", show_default=False)
]
DataOption = Annotated[Path | None, typer.Option(help="Dataset folder: its classes are taken.")]
SplitOption = Annotated[str | None, typer.Option(help="Split of --data; the training split without it.")]


@app.callback()
def _group() -> None:
    pass


@app.command()
def embed(
    output: OutputOption,
    classes: ClassesOption = None,
    data: DataOption = None,
    split: SplitOption = None,
    model: Annotated[str, typer.Option(help="open_clip architecture.")] = "ViT-L-14",
    weights: Annotated[Path | None, typer.Option(help="Local weight file of it.")] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Instead of a file: weights that open_clip downloads, such as openai.")
    ] = None,
    activation: Annotated[
        Literal["gelu", "quickgelu"] | None,
        typer.Option(help="Of weights that do not tell what they were trained with.", show_default=False),
    ] = None,
    prompts: Annotated[
        str, typer.Option(metavar="8|1|FILE", help="Prompts a class: eight, 'a NAME' alone, or those of a text file.")
    ] = "8",
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Embed the names of classes with a CLIP text encoder; the file goes into 'detheads train --text'.

    The embeddings of a class's prompts are averaged. Run again with more classes, only the new ones are computed.
    """
    _require_npz(output)
    if (classes is None) == (data is None):
        raise UserError("give the names with --classes NAME,... or a dataset whose classes they are with --data.")
    if (weights is None) == (pretrained is None):
        raise UserError(
            "give a local weight file with --weights, or weights to download with --pretrained, one of both."
        )
    require_existing(data, weights)
    require_outputs(files=[output])
    names = parse_classes(classes) if data is None else _names_of(data, split, skip_bad)

    from detheads.backbones.clip import embed_classes, find_encoder, parse_prompts

    templates = parse_prompts(prompts)
    encoder = find_encoder(model, weights, pretrained, activation)
    if encoder.architecture != model:
        remark(f"{encoder.weights} was trained with the activation of {encoder.architecture}, which is used")
    with steps() as on_progress:
        made = embed_classes(output, names, encoder, templates, on_progress)
    answer = {
        "output": str(output),
        "classes": len(names),
        "computed": made.computed,
        "dimension": made.dimension,
        "model": encoder.architecture,
        "prompts": len(templates),
    }
    emit(
        answer,
        as_json,
        lambda console: console.print(
            f"{output}: {len(names)} classes ({made.computed} computed), {made.dimension} numbers, "
            f"{encoder.architecture}, prompts a class: {len(templates)}"
        ),
    )


@app.command()
def from_boxes(
    run: Annotated[Path, typer.Argument(help="Folder of a training run whose head compares with embeddings.")],
    data: Annotated[Path, typer.Option(help="Dataset folder: pictures with boxes of the classes.")],
    output: OutputOption,
    classes: ClassesOption = None,
    split: SplitOption = None,
    boxes: Annotated[
        int, typer.Option(min=1, help="Boxes of each class, drawn by --seed; all where it has fewer.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice.")] = 0,
    which: Annotated[Literal["best", "last"], typer.Option(help="Which weights of the run.")] = "best",
    head_file: HeadFiles = None,
    backbone_file: BackboneFile = None,
    weights: WeightsOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Make classes of a few of their boxes, as a trained head sees them, without training.

    The file goes into 'detheads export RUN --text' and 'detheads eval RUN --text' of the same run. --classes are some
    of the dataset's; all of them without it.
    """
    _require_npz(output)
    require_run(run)
    require_existing(data, weights)
    require_outputs(files=[output])
    names = parse_classes(classes)

    from detheads.backbones.text import BOXES, Encoder, save_class_embeddings
    from detheads.cli.datasets import read_split
    from detheads.evaluation.from_boxes import embed_boxes
    from detheads.export.source import load_trained
    from detheads.ops.devices import pick_device

    place = pick_device(device)
    dataset = read_split(data, split, skip_bad=skip_bad)
    unknown = next((name for name in names if name not in dataset.class_names), None)
    if unknown is not None:
        near = suggest(unknown, dataset.class_names)
        raise UserError(f"{data} has no class {unknown!r}, but {', '.join(dataset.class_names)}.{near}")
    trained = load_trained(run, which=which, weights=weights)
    wanted = names or tuple(dataset.class_names)
    with steps() as on_progress:
        made = embed_boxes(
            trained.backbone.to(place).eval(),
            trained.head.to(place),
            trained.checkpoint.feature_spec,
            dataset,
            wanted,
            boxes,
            seed,
            on_progress,
        )
    save_class_embeddings(output, wanted, made.rows, Encoder(BOXES, trained.checkpoint.checkpoint_sha256))
    counts = dict(zip(wanted, made.boxes, strict=True))
    answer = {"output": str(output), "boxes": counts, "pictures": made.pictures, "dimension": made.rows.shape[1]}
    told = ", ".join(f"{name} {number}" for name, number in counts.items())
    emit(answer, as_json, lambda console: console.print(f"{output}: boxes in {made.pictures} pictures: {told}"))


def _names_of(data: Path, split: str | None, skip_bad: bool) -> tuple[str, ...]:
    from detheads.cli.datasets import read_split

    names = tuple(read_split(data, split, skip_bad=skip_bad).class_names)
    require_once(names, str(data))
    return names


def _require_npz(output: Path) -> None:
    if output.suffix != ".npz":
        raise UserError(f"{output} must end in .npz.")
