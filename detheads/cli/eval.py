"""``detheads eval``: runs on a cache, several side by side, or anyone's COCO results on a dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from detheads.cli.checks import require_caches, require_existing, require_outputs, require_run
from detheads.cli.options import EmbeddingsOption, HeadFiles, SkipBad
from detheads.cli.output import JsonFlag, emit, remark, steps, table
from detheads.cli.train import PicturesOption
from detheads.evaluation.coco import NAMES, statistic_text
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from detheads.report.evaluated import Evaluated
    from detheads.report.measured import Measured

SIZES = "small, medium, large: below 32 x 32, below 96 x 96, and from there on, in pixels of the original picture"

FALSE = "wrong detections an image at IoU 0.5, from the highest score on that finds half of the objects"


def evaluate(
    run: Annotated[
        list[Path] | None, typer.Argument(help="Folder of a training run; several are compared.", show_default=False)
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Feature cache to evaluate on.")] = None,
    which: Annotated[
        Literal["best", "last", "live"],
        typer.Option(help="Which weights of the run; live: the last ones before they were averaged."),
    ] = "best",
    text: EmbeddingsOption = None,
    head_file: HeadFiles = None,
    soft_nms: Annotated[bool, typer.Option("--soft-nms", help="Soft NMS with linear decay.")] = False,
    evaluator: Annotated[
        Literal["pycocotools", "hotcoco"], typer.Option(help="hotcoco is faster and gives the same values.")
    ] = "pycocotools",
    detections: Annotated[
        Path | None, typer.Option(help="COCO results of any tool to evaluate, instead of a run; with --data.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder: for pictures, or of the detections' ground truth.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data that the detections are of.")] = None,
    skip_bad: SkipBad = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for a report: a page, Markdown, JSON, plots.")
    ] = None,
    pictures: PicturesOption = 8,
    failures: Annotated[
        Path | None, typer.Option(help="Folder for pictures of false detections and missed objects; with --data.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Also write the detections as COCO results.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --results.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """COCO statistics of trained heads on a cache, or of another tool's results on a dataset.

    With -o also a report of the errors, worst classes and images; with --failures pictures of what went wrong.
    """
    runs = run or []
    _require_one_question(runs, cache, detections, data, split, output, failures, results, text)
    for folder in runs:
        require_run(folder)
    require_existing(data, detections, text)
    require_caches(cache)
    require_new_results(results, force)
    require_outputs(files=[results], folders=[output, failures])

    from detheads.backbones.text import read_embeddings
    from detheads.foundation import atomic
    from detheads.report.evaluated import evaluate_results, evaluate_run
    from detheads.report.measured import measure

    if detections is not None:
        assert data is not None
        from detheads.cli.datasets import read_split

        found = evaluate_results(detections, read_split(data, split, skip_bad=skip_bad), evaluator)
    else:
        from detheads.ops.devices import pick_device

        assert cache is not None
        with steps() as on_progress:
            several = [
                evaluate_run(
                    each,
                    cache,
                    which,
                    device=pick_device(device),
                    embeddings=read_embeddings(text) if text is not None else None,
                    soft_nms=soft_nms,
                    evaluator=evaluator,
                    on_progress=on_progress,
                )
                for each in runs
            ]
        for each in several:
            remark(*each.remarks)
        if len(several) > 1:
            _compare(several, as_json)
            return
        found = several[0]
    if detections is not None:
        remark(*found.remarks)
    if results is not None:
        atomic.write_json(results, found.detections, indent=None)
    measured = measure(found.dataset, found.detections, found.statistics)
    answer = found.statistics.to_dict() | {
        "scores": measured.scores.to_dict(),
        "errors": measured.errors_by_kind(),
        "remarks": list(found.remarks),
    }
    if output is not None or failures is not None:
        answer |= _written(found, measured, output, failures, data, pictures)
    emit(answer, as_json, lambda console: _render(console, measured, answer))


def _require_one_question(
    runs: Sequence[Path],
    cache: Path | None,
    detections: Path | None,
    data: Path | None,
    split: str | None,
    output: Path | None,
    failures: Path | None,
    results: Path | None,
    text: Path | None,
) -> None:
    """Refuse options that do not go together."""
    if detections is not None:
        if runs or cache is not None:
            raise UserError("--detections are evaluated on a dataset (--data); leave the runs and --cache out.")
        if data is None:
            raise UserError("--detections need the dataset that they are of: --data DATASET --split SPLIT.")
        if text is not None:
            raise UserError("--text is for a run's head; leave it out with --detections.")
        if results is not None:
            raise UserError("--results writes the detections of a run; those of --detections are a file already.")
        return
    if not runs:
        raise UserError(
            "nothing to evaluate: give a training run and --cache CACHE, or --detections RESULTS.json --data DATASET."
        )
    if cache is None:
        raise UserError("give the feature cache to evaluate on with --cache.")
    if split is not None:
        raise UserError("--split is for --detections; a cache knows its split.")
    if len(runs) > 1 and (output, failures, results) != (None, None, None):
        raise UserError("-o, --failures and --results are for one run; evaluate each by itself for these.")
    if failures is not None and data is None:
        raise UserError("--failures draws pictures, which a cache does not keep; name their dataset with --data.")
    if data is not None and output is None and failures is None:
        raise UserError(
            "--data is for the pictures of a report or of failures; give a folder for them with -o or --failures."
        )


def require_new_results(path: Path | None, force: bool) -> None:
    """Refuse to replace a file.

    Raises:
        UserError: when there is one and ``force`` is not given.
    """
    if path is not None and path.exists() and not force:
        raise UserError(f"{path} exists; choose another file for --results, or replace it with --force.")


def _written(
    found: "Evaluated",
    measured: "Measured",
    output: Path | None,
    failures: Path | None,
    data: Path | None,
    pictures: int,
) -> dict[str, Any]:
    """Write the report and the pictures of failures; where they stand."""
    from detheads.report.failures import write_failures
    from detheads.report.run import write_report

    answer: dict[str, Any] = {}
    if output is not None:
        files = write_report(found, output, data=data, pictures=pictures, measured=measured)
        answer["report"] = str(files.page)
    if failures is not None:
        assert data is not None
        answer["failures"] = str(failures)
        answer["failure_pictures"] = len(write_failures(measured, data, failures))
    return answer


def _compare(found: Sequence["Evaluated"], as_json: bool) -> None:
    from detheads.report.comparison import compare_runs, repeated_runs

    with steps() as on_progress:
        rows = compare_runs(found, on_progress)
    repeated = repeated_runs(found)
    answer = {"runs": [asdict(row) for row in rows], "repeated": [asdict(each) for each in repeated]}

    def render(console: Console) -> None:
        columns = ("run", "head", "parameters", "AP", "AP50", "best F1", "false", "AP difference", "95 % interval")
        cells = [
            (
                row.run,
                row.head,
                f"{row.parameters:,}",
                statistic_text(row.AP),
                statistic_text(row.AP50),
                statistic_text(row.best_f1),
                statistic_text(row.false_detections, ".2f"),
                "" if row.difference is None else f"{row.difference:+.4f}",
                "" if row.interval is None else row.interval.told(),
            )
            for row in rows
        ]
        console.print(table(columns, cells))
        console.print(f"false: {FALSE}")
        console.print(
            "differences are to the first run; the interval is a paired bootstrap over the images: one that holds 0 "
            "means that other images could turn the order (other seeds are not in it)"
        )
        for each in repeated:
            console.print(f"{each.head}, {len(each.runs)} runs: AP {each.AP:.4f} ± {each.spread:.4f}")

    emit(answer, as_json, render)


def _render(console: Console, measured: "Measured", answer: Mapping[str, Any]) -> None:
    statistics, scores = measured.statistics, measured.scores
    rows = [(name, statistic_text(getattr(statistics, name))) for name in NAMES]
    console.print(table(("statistic", "value"), rows))
    console.print(SIZES)
    points = [scores.together.at(score) for score in (0.1, 0.3, 0.5, 0.7, 0.9)]
    numbers = [
        (f"{each.score:.1f}", f"{each.detections:,}", *map(_three, (each.precision, each.recall, each.f1)))
        for each in points
    ]
    console.print(table(("from score on", "detections", "precision", "recall", "F1"), numbers))
    console.print(scores.at_recall.told())
    kinds = [
        (kind, f"{known['all']:,}", f"{known['at_score']:,}", statistic_text(known["ap50_gained"]))
        for kind, known in answer["errors"].items()
        if isinstance(known, dict) and "ap50_gained" in known
    ]
    console.print(table(("kind of error", "all", f"from score {measured.score:.2f} on", "AP50 gained"), kinds))
    classes = [
        (
            name,
            statistic_text(value.AP),
            statistic_text(value.AP50),
            *((_three(best.score), _three(best.precision), _three(best.recall), _three(best.f1)) if best else [""] * 4),
        )
        for name, value in statistics.per_class.items()
        for best in [scores.per_class[name].best]
    ]
    console.print(table(("class", "AP", "AP50", "best score", "precision", "recall", "F1"), classes))
    for key in ("report", "failures"):
        if key in answer:
            console.print(f"{key} {answer[key]}")


def _three(value: float | None) -> str:
    return statistic_text(value, ".3f")
