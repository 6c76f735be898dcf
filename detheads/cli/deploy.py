"""``detheads deploy``: run bundles, without torch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detheads.cli.checks import possible_threads
from detheads.cli.output import JsonFlag, emit, remark, steps

app = typer.Typer(help="Run bundles on pictures, without torch.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps ``run`` a subcommand while it is the only one."""


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(help="Folder NAME.detheads.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, folders of pictures, or a dataset with --split.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the results.")],
    split: Annotated[str | None, typer.Option(help="Run this split of a dataset, under its own image ids.")] = None,
    images_json: Annotated[
        Path | None, typer.Option(help="COCO file with the image ids to use; without it they count from 1.")
    ] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Lowest score in detections.json.")] = 0.05,
    draw_score: Annotated[float, typer.Option(min=0, max=1, help="Lowest score drawn on a picture.")] = 0.3,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Pictures in one run of the graph.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, callback=possible_threads, help="CPU threads; ONNX Runtime's own choice if unset."),
    ] = None,
    provider: Annotated[
        str, typer.Option(help="ONNX Runtime provider; never replaced.", show_default="the CPU's")
    ] = "CPUExecutionProvider",
    pictures: Annotated[bool, typer.Option(help="Write annotated pictures too.")] = True,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read, list them, and exit 0.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write COCO results and annotated pictures.

    A picture that cannot be read stops the run before anything is written (exit code 1), unless --skip-bad is given.
    """
    from detheads.deploy.detector import Detector
    from detheads.deploy.inputs import collect_images
    from detheads.deploy.run import run_images

    inputs = collect_images(images, split=split, images_json=images_json)
    detector = Detector(bundle, provider=provider, threads=threads)
    if detector.manifest.state != "verified":
        remark(f"{bundle} is {detector.manifest.state}: nothing proves that it equals the trained model")
    with steps() as on_progress:
        result = run_images(
            detector,
            inputs,
            output,
            score=score,
            draw_score=draw_score,
            batch=batch,
            pictures=pictures,
            skip_bad=skip_bad,
            on_progress=on_progress,
        )
    for sentence in result.skipped:
        remark(f"skipped: {sentence}")
    answer = {
        "folder": str(result.folder),
        "results": str(result.results),
        "images_file": str(result.images),
        "pictures": [str(path) for path in result.pictures],
        "images": result.image_count,
        "detections": result.detections,
        "skipped": list(result.skipped),
        "bundle_state": detector.manifest.state,
        "runtime": detector.session.runtime,
    }

    def render(console: Console) -> None:
        console.print(f"{result.results}: {result.detections} detections on {result.image_count} images")
        if result.pictures:
            console.print(f"annotated pictures: {result.pictures[0].parent}")

    emit(answer, as_json, render)
