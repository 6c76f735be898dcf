"""``detheads make``: from pictures to a proven bundle in one command."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cli.checks import possible_threads, require_existing, require_heads, require_outputs
from detheads.cli.datasets import DatasetFolder
from detheads.cli.options import (
    BackboneFile,
    HeadFiles,
    SeedOption,
    SkipBad,
    WeightsOption,
    parse_size,
    require_backbone_of,
)
from detheads.cli.output import JsonFlag, emit, remark, steps, table
from detheads.cli.train import HeadOptions, parse_options
from detheads.evaluation.coco import statistic_text
from detheads.export.target import require_target
from detheads.foundation.errors import UserError
from detheads.make.budget import parse_budget, span
from detheads.make.request import BACKBONE, Candidate, Request, work_folder
from detheads.training.config import Precision

if TYPE_CHECKING:
    from detheads.make.made import Made


def make(
    dataset: DatasetFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle, NAME.detheads.")],
    budget: Annotated[
        str, typer.Option(help="Wall time, such as 10m, 1h or 1h30m; best: until nothing helps any more.")
    ] = "1h",
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=WEIGHTS]",
            help="A name of 'detheads cache backbones', or timm:NAME, with a weight file or without; several are "
            "compared. Those whose weights are here and allow all use when left out.",
        ),
    ] = None,
    backbone_file: BackboneFile = None,
    weights: WeightsOption = None,
    size: Annotated[
        str | None, typer.Option(help="Input size in pixels: 512, or HEIGHTxWIDTH; chosen otherwise.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="The only head to train; chosen when left out.")] = None,
    option: HeadOptions = None,
    head_file: HeadFiles = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each training; chosen when left out.")] = None,
    precision: Annotated[
        Precision | None, typer.Option(metavar="MODE", help="fp32, bf16, fp16 or auto; the faster one when left out.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for caches, runs and the page; NAME.make beside the bundle.")
    ] = None,
    seed: SeedOption = 0,
    threads: Annotated[int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    skip_bad: SkipBad = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Pictures to a proven bundle: look, choose, cache, train, export, prove, and a page. Run again to go on."""
    require_existing(dataset)
    time = parse_budget(budget)
    if option and head is None:
        raise UserError("-O is an option of a head; name it with --head.")
    if head is not None:
        require_heads([head], head_file)
    named = named_backbones(backbone or [], weights)
    require_backbone_of(backbone_file, *[each.name for each in named] or [BACKBONE])
    require_existing(*(each.weights for each in named))
    input_size = parse_size(size)
    work = work or work_folder(output)
    require_target(output, force or work.exists())
    require_outputs(folders=[output, work])

    from detheads.make.backbones import candidates_at_hand
    from detheads.make.run import make as make_bundle

    first, *rivals = named or candidates_at_hand()
    request = Request(
        data=dataset,
        output=output,
        work=work,
        budget=time,
        backbone=first.name,
        weights=first.weights,
        rivals=rivals,
        named=bool(named),
        size=input_size,
        head=head,
        options=parse_options(option or []),
        head_files=[path.resolve() for path in head_file or ()],
        epochs=epochs,
        precision=precision,
        seed=seed,
        device=device,
        threads=threads,
        skip_bad=skip_bad,
        force=force,
    )

    remark(f"caches, runs and the page go to {work}; run again to continue an interrupted making")
    with steps() as on_progress:
        made = make_bundle(request, on_progress, remark)
    emit(asdict(made), as_json, lambda console: print_made(console, made))


def named_backbones(named: Sequence[str], weights: Path | None) -> list[Candidate]:
    """The backbones of ``--backbone`` with their weight files; none where neither option says anything.

    Raises:
        UserError: when one is named twice, or ``--weights`` could be those of any of several.
    """
    found = []
    for text in named or ([] if weights is None else [BACKBONE]):
        name, _, file = text.partition("=")
        found.append(Candidate(name, Path(file) if file else None))
    if repeated := [each.name for place, each in enumerate(found) if each.name in {one.name for one in found[:place]}]:
        raise UserError(f"--backbone names {repeated[0]} twice.")
    if weights is None:
        return found
    if len(found) > 1 or found[0].weights is not None:
        raise UserError("--weights is the file of one backbone; write --backbone NAME=WEIGHTS for each of several.")
    return [Candidate(found[0].name, weights)]


def print_made(console: Console, made: "Made") -> None:
    """The figures, where everything is, and the commands that come next."""
    taken = ", ".join(f"{step} {seconds:.0f}" for step, seconds in made.steps.items())
    rows = [
        ("AP, AP50", f"{made.AP:.4f}, {statistic_text(made.AP50)}"),
        ("AP of live PyTorch", f"{made.live_ap:.4f}"),
        ("AP of model.onnx", f"{made.bundle_ap:.4f}"),
        ("difference live - ONNX", f"{made.map_drop:+.5f}"),
        ("head", f"{made.head}, {made.parameters:,} parameters, {made.epochs} epochs"),
        ("backbone", made.backbone),
        ("input", f"{made.size[0]}x{made.size[1]} pixels"),
        ("TensorRT engine", made.engine_status),
        ("time", f"{span(made.seconds)} (seconds: {taken})"),
    ]
    console.print(table(("result", ""), rows))
    console.print(made.judged)
    for name in ("bundle", "page", "report", "work"):
        console.print(f"{name:8} {getattr(made, name)}")
    console.print("next:")
    for command, purpose in made.commands:
        console.print(f"  {command}    # {purpose}")
