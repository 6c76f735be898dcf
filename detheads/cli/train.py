"""``detheads train``."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from detheads.cli.checks import (
    possible_threads,
    require_caches,
    require_existing,
    require_heads,
    require_outputs,
)
from detheads.cli.options import (
    BatchOption,
    DecayOption,
    EpochsOption,
    EveryOption,
    HeadFiles,
    PrecisionOption,
    RateOption,
    SeedOption,
)
from detheads.cli.output import JsonFlag, emit, progress, remark
from detheads.cli.recipe_options import departures, head_of, resolved, typed
from detheads.evaluation.coco import NAMES, statistic_text
from detheads.foundation.atomic import sized, try_output
from detheads.foundation.errors import UserError
from detheads.training.config import Mirror
from detheads.training.launch import one_voice
from detheads.training.recipes.recipe import read_recipe

if TYPE_CHECKING:
    from detheads.training.estimate import Estimate
    from detheads.training.status import TrainResult
    from detheads.training.trainer import Trainer

HeadOptions = Annotated[
    list[str] | None, typer.Option("-O", "--option", help="Option of the head, such as hidden=64; repeatable.")
]
ShuffleOption = Annotated[
    float, typer.Option(min=0, help="GB of features that batches of larger caches are drawn from; 0: all.")
]
ReadersOption = Annotated[
    int | None, typer.Option(min=1, max=64, help="Threads that read batches; half the cores up to 8 when left out.")
]
LayoutFlag = Annotated[bool, typer.Option("--channels-last", help="Features and weights in that memory format.")]
CompileFlag = Annotated[bool, typer.Option("--compile", help="Compile the head first (torch.compile; takes minutes).")]
DataOption = Annotated[Path | None, typer.Option(help="Dataset folder of the cache, for pictures of the worst images.")]
PicturesOption = Annotated[int, typer.Option(min=0, help="Pictures in the report at most.")]

SHOW_SECONDS = 0.5
"""Time between two losses on the screen: to read one waits for the device."""


def train(
    context: typer.Context,
    cache: Annotated[
        list[Path], typer.Option(help="Feature cache to train on; repeatable: several are one training set.")
    ],
    val: Annotated[Path, typer.Option(help="Feature cache to evaluate on.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; an interrupted one is resumed.")],
    head: Annotated[
        str | None,
        typer.Argument(help="A name of 'detheads heads list'; a --recipe names its own.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Follow a recipe: a name of 'detheads recipe list', or a file that ends in .toml. What is given "
            "besides wins."
        ),
    ] = None,
    option: HeadOptions = None,
    head_file: HeadFiles = None,
    text: Annotated[
        Path | None, typer.Option(help="Class embeddings (.npy or .npz) for heads that compare with text.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Run or checkpoint to start from: its weights, and its options of the head.")
    ] = None,
    epochs: EpochsOption = 12,
    extend: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Further epochs behind --epochs, on a finished run too; repeatable."),
    ] = None,
    batch: BatchOption = 8,
    lr: RateOption = 1e-3,
    weight_decay: DecayOption = 0.01,
    warmup_steps: Annotated[
        int, typer.Option(help="Steps in which the rate rises to --lr; at most a tenth of all.")
    ] = 100,
    clip_norm: Annotated[float, typer.Option(help="Largest norm of a gradient; longer ones are scaled down.")] = 5.0,
    flips: Annotated[float, typer.Option(help="Share of images that are mirrored; see --mirror.")] = 0.5,
    mirror: Annotated[
        Mirror,
        typer.Option(
            metavar="WHAT",
            help="images: features of mirrored images (cache build --flips). features: those of the plain ones, "
            "turned. none. auto: images, where the cache holds them.",
        ),
    ] = "auto",
    ema_decay: Annotated[float, typer.Option(help="Decay of the averaged weights.")] = 0.9998,
    sweep: Annotated[
        int,
        typer.Option(
            metavar="POINTS",
            help="Look at so many checkpoints in the last third of the schedule, live and averaged, and keep the best, "
            "judged by training pictures that are held out; 0: the best of the evaluations on --val.",
        ),
    ] = 0,
    hold_out: Annotated[
        int, typer.Option(metavar="PICTURES", help="Held out for --sweep; 0: a tenth, 5000 at most.")
    ] = 0,
    train_only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="With --init: parameters or modules that learn, all else stays as it is; cls_calib: cls_project, "
            "cls_bias and logit_scale. Repeatable.",
        ),
    ] = None,
    eval_every: EveryOption = 1,
    precision: PrecisionOption = "auto",
    seed: SeedOption = 0,
    shuffle_window: ShuffleOption = 8.0,
    channels_last: LayoutFlag = False,
    compile_head: CompileFlag = False,
    readers: ReadersOption = None,
    threads: Annotated[int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at head, recipe, caches, text and free space; train nothing.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a head on cached features. Run again to resume an interrupted run exactly."""
    with one_voice():
        followed = read_recipe(recipe) if recipe else None
        name = head_of(followed, head)
        require_heads([name], head_file)
        require_caches(*cache, val)
        require_existing(text, init)
        require_outputs(folders=[output])
        options: dict[str, Any] = {
            "epochs": epochs,
            "batch": batch,
            "lr": lr,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "clip_norm": clip_norm,
            "flips": flips,
            "mirror": mirror,
            "ema_decay": ema_decay,
            "eval_every": eval_every,
            "precision": precision,
            "seed": seed,
            "shuffle_window": shuffle_window,
            "channels_last": channels_last,
            "compile": compile_head,
            "sweep": sweep,
            "hold_out": hold_out,
            "train_only": tuple(_names(train_only or [])),
        }
        chosen = parse_options(option or [])
        if followed is not None:
            followed = resolved(followed, typed(context, options), chosen, text, extend)

    from detheads.backbones.text import read_embeddings
    from detheads.cache.joined import open_caches
    from detheads.cache.reader import FeatureCache
    from detheads.ops.devices import use_threads
    from detheads.training.config import TrainConfig
    from detheads.training.distributed import together
    from detheads.training.recipes.follow import follow
    from detheads.training.trainer import Trainer

    with together(device) as processes:
        use_threads(threads)
        train_cache, val_cache = open_caches(cache), FeatureCache(val)
        embeddings = read_embeddings(text) if text else None
        stages: list[Trainer] = []

        def fit(stage: str, trainer: Trainer) -> "TrainResult":
            if processes.first:
                remark(*([f"stage {stage}: {trainer.run}"] if stage else []), *_remarks(trainer))
            if dry_run:  # the later stages of a recipe start from weights that there are not
                _tell_sizes(trainer, len(followed.stages) if followed else 1, as_json)
                raise typer.Exit
            stages.append(trainer)
            return _fit(trainer)

        if followed is not None:
            if processes.first:
                remark(*departures(followed, train_cache, embeddings), *followed.to_toml(resolved=True).splitlines())
            result = follow(
                followed,
                train_cache,
                val_cache,
                output,
                fit,
                processes=processes,
                embeddings=embeddings,
                init=init,
                readers=readers,
            )
        else:
            trainer = Trainer(
                name,
                chosen,
                train_cache,
                val_cache,
                output,
                TrainConfig(**options),
                processes=processes,
                readers=readers,
                class_embeddings=embeddings.of(train_cache.dataset.class_names) if embeddings else None,
                encoder=embeddings.encoder if embeddings else None,
                init=init,
                extensions=extend or (),
            )
            result = fit("", trainer)
    if not processes.first:
        return
    for mended in (sentence for stage in stages for sentence in stage.remarks):
        remark(mended)
    trainer = stages[-1]
    seconds, swept = sum(stage.seconds for stage in stages), bool(trainer.config.sweep)
    answer = {
        "run": str(output),
        "head": name,
        "parameters": result.parameters,
        "best_epoch": result.best_epoch,
        "epochs": sum(stage.epochs for stage in stages),
        "seconds": round(seconds, 1),
        "validated_on_trained": trainer.identity.validated_on_trained,
        **{name: result.metrics[name] for name in NAMES},
        **(_swept(output, result) if swept else {}),
        **({"recipe": followed.name, "stages": [str(stage.run) for stage in stages]} if followed else {}),
    }

    reached = ", ".join(f"{name} {statistic_text(result.metrics[name], '.3f')}" for name in NAMES[:3])

    def render(console: Console) -> None:
        where = f"epoch {result.best_epoch}"
        if swept:
            where = f"step {answer['step']} ({answer['weights']} weights)"
        console.print(f"{output}: {reached} at {where}, {seconds / 60:.1f} minutes")

    emit(answer, as_json, render)


def _tell_sizes(trainer: "Trainer", runs: int, as_json: bool) -> None:
    """What a training will take, before its first step.

    Raises:
        UserError: when the disk has no room for its checkpoints.
    """
    from detheads.training.recipes.plan import STATES

    size = runs * STATES * 4 * trainer.parameters
    try_output(trainer.run, folder=True, needs=size)
    answer = {"run": str(trainer.run), "parameters": trainer.parameters, "steps": trainer.total_steps, "bytes": size}
    told = f"{trainer.run}: {sized(size)} of checkpoints and {trainer.total_steps:,} steps; nothing was trained"
    emit(answer, as_json, lambda console: console.print(told))


def _swept(run: Path, result: "TrainResult") -> dict[str, Any]:
    """What a sweep looked at and kept."""
    from detheads.training.sweep import read_sweep

    kept = {name: result.metrics[name] for name in ("step", "weights", "held_out_ap")}
    return kept | {"sweep": [asdict(point) for point in read_sweep(run)]}


def _remarks(trainer: "Trainer") -> list[str]:
    """What is to be known before the first step."""
    train, processes = trainer.train_cache, trainer.processes.count
    where = f"{processes} processes, here on {trainer.device}" if processes > 1 else str(trainer.device)
    lines = [
        f"{trainer.identity.head_name}: {trainer.parameters:,} parameters, {len(train)} images, {trainer.total_steps} "
        f"steps on {where}, options {trainer.identity.head_config}"
    ]
    if trainer.head.remark:
        lines.append(trainer.head.remark)
    if trainer.config.flips and trainer.config.mirror == "auto" and not train.has_flips:
        lines.append(
            "the cache holds no mirrored images (build it with --flips, or give --mirror features): training without "
            "flip augmentation"
        )
    if trainer.started_from is not None:
        lines.append(trainer.started_from.sentence)
    if trainer.config.train_only:
        lines.append(f"{trainer.learning:,} of {trainer.parameters:,} parameters learn; all else stays as it is")
    if trainer.held_out is not None:
        lines.append(f"{len(trainer.held_out)} training pictures are held out, by which the sweep is judged")
        if trainer.held_out_known and trainer.started_from is not None:
            lines.append(
                f"{trainer.held_out_known} of them were trained on by {trainer.started_from.source}, so that they "
                "favour what it learned by heart; sweep in that training, too, and it holds out the same ones"
            )
    trained_too = trainer.identity.validated_on_trained
    if trained_too:
        lines.append(
            f"{trained_too} of the {len(trainer.val_cache)} validation pictures are training pictures too: the AP says "
            "how well they were learned by heart, not how good the head is; the run records it"
        )
    return lines


def _fit(trainer: "Trainer") -> "TrainResult":
    """Train, with a progress bar in the first process."""
    from detheads.training.estimate import LONG_SECONDS, Estimate
    from detheads.training.status import Status

    if not trainer.processes.first:
        return trainer.fit()
    estimate = Estimate(trainer.steps_per_epoch, trainer.total_steps)
    with progress() as bar:
        task, shown = bar.add_task("training", total=trainer.total_steps), float("-inf")

        def on_step(status: Status) -> None:
            nonlocal shown
            bar.update(task, completed=status.step)
            timed = estimate.step_seconds is None  # the first steps are timed, and a GPU has to have taken them
            if timed or time.monotonic() - shown > SHOW_SECONDS:
                best = f", best AP {status.best_ap:.3f}" if status.best_ap is not None else ""
                bar.update(task, description=f"epoch {status.epoch}/{trainer.epochs}, loss {status.loss:.3f}{best}")
                shown = time.monotonic()
            if estimate.advance() and estimate.total_seconds > LONG_SECONDS:
                remark(estimate.sentence + _smaller(trainer, estimate))

        result = trainer.fit(on_step)
        reached = statistic_text(result.metrics["AP"], ".3f")
        description = f"epoch {trainer.epochs}/{trainer.epochs}, best AP {reached} at epoch {result.best_epoch}"
        bar.update(task, completed=trainer.total_steps, description=description)
    return result


def _smaller(trainer: "Trainer", estimate: "Estimate") -> str:
    """What a smaller head would take, where that would make a difference, measured now."""
    from detheads.training.estimate import SLOW_SECONDS, SMALL_HEAD, WORTH_NAMING, small_head_seconds

    if trainer.processes.count > 1:  # a step of this process alone would wait for the others in its loss
        return ""
    if estimate.total_seconds < SLOW_SECONDS or trainer.identity.head_name == SMALL_HEAD or not estimate.step_seconds:
        return ""
    small = small_head_seconds(trainer.train_cache, trainer.config, trainer.device)
    share = 1.0 if small is None else small / estimate.step_seconds
    if share > WORTH_NAMING:
        return ""
    return f"; a step of {SMALL_HEAD} takes {share:.2f} of it here"


def _names(values: Sequence[str]) -> list[str]:
    """``["cls_project,cls_bias", "logit_scale"]`` -> the three names."""
    names = [name.strip() for value in values for name in value.split(",")]
    if not all(names):
        raise UserError("--train-only takes names with commas between them, such as cls_bias,logit_scale.")
    return names


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
    """``["hidden=64"]`` -> ``{"hidden": "64"}``."""
    options = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise UserError(f"a head option reads NAME=VALUE, not {pair!r}.")
        options[key.strip()] = value.strip()
    return options
