"""``detheads text``: class embeddings with open_clip."""

from pathlib import Path
from typing import Annotated

import typer

from detheads.cli.checks import require_existing, require_outputs
from detheads.cli.output import JsonFlag, emit
from detheads.foundation.errors import UserError

app = typer.Typer(help="Text embeddings of class names.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def embed(
    classes: Annotated[list[str], typer.Argument(help="Class names, in any order.")],
    weights: Annotated[Path, typer.Option(help="Local weight file of the CLIP model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .npz with names and embeddings.")],
    model: Annotated[str, typer.Option(help="open_clip architecture.")] = "ViT-L-14",
    as_json: JsonFlag = False,
) -> None:
    """Average eight prompts a class with a CLIP text encoder; the file goes into 'detheads train --text'."""
    if output.suffix != ".npz":
        raise UserError(f"{output} must end in .npz.")
    require_existing(weights)
    require_outputs(files=[output])

    from detheads.backbones.text import compute_class_embeddings, save_class_embeddings

    embeddings = compute_class_embeddings(classes, model, weights)
    save_class_embeddings(output, classes, embeddings)
    answer = {"output": str(output), "classes": len(classes), "dimension": embeddings.shape[1], "model": model}
    emit(
        answer,
        as_json,
        lambda console: console.print(f"{output}: {len(classes)} classes, {embeddings.shape[1]} numbers"),
    )
