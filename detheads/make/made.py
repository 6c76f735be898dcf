"""What a making made, and the page that tells it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from detheads.export.pipeline import ExportResult
from detheads.foundation.atomic import sized
from detheads.foundation.reading import read_json
from detheads.make.backbones import ChosenBackbone
from detheads.make.budget import BEST, span
from detheads.make.caching import place_of
from detheads.make.contest import Trial
from detheads.make.divide import Division
from detheads.make.look import Look
from detheads.make.page import Story, write_page
from detheads.make.request import Request, work_folder
from detheads.make.sizes import InputChoice
from detheads.report.evaluated import Evaluated
from detheads.training.trainer import RUN


@dataclass(frozen=True)
class Made:
    """What a making made and measured; AP values are in 0..1.

    Attributes:
        AP, AP50: on the pictures that judge, or of all folds.
        live_ap, bundle_ap: of PyTorch and of the bundle's graph, on the pictures of the proof.
        map_drop: their difference.
        judged: how the figures came about, in a sentence.
        why: every choice with its reasons, by what was chosen.
        trials: every head that was trained, the best first.
        steps: seconds by step, of all attempts.
        commands: that come next, with what each is for.
    """

    AP: float
    AP50: float | None
    live_ap: float
    bundle_ap: float
    map_drop: float
    head: str
    options: Mapping[str, Any]
    parameters: int
    epochs: int
    backbone: str
    size: tuple[int, int]
    flips: bool
    train_pictures: int
    val_pictures: int
    judged: str
    why: Mapping[str, Sequence[str]]
    remarks: Sequence[str]
    trials: Sequence[Mapping[str, Any]]
    engine: str | None
    engine_status: str
    bundle: str
    page: str
    report: str
    """The proof's."""
    work: str
    steps: Mapping[str, float]
    seconds: float
    commands: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Trained:
    """The heads that were trained.

    Attributes:
        trials: the best first.
        failed: sentences on those that could not be.
        tried: sentences on what was and was not tried.
        judged: what the best one finds in the pictures that judge.
    """

    trials: Sequence[Trial]
    failed: Sequence[str]
    tried: Sequence[str]
    judged: Evaluated


@dataclass(frozen=True)
class Parts:
    """All that was found out and made; ``proven`` counts the pictures of the proof."""

    look: Look
    division: Division
    remarks: Sequence[str]
    chosen: ChosenBackbone
    choice: InputChoice
    trained: Trained
    exported: ExportResult
    proven: int


def tell(request: Request, parts: Parts, seconds: Mapping[str, float]) -> Made:
    """Write the page, and say what was made.

    Raises:
        UserError: when the pictures of the page cannot be drawn.
    """
    best, report, choice = parts.trained.trials[0], parts.exported.report, parts.choice
    assert report is not None  # a bundle without a proof is none of ours
    engine = next(iter(parts.exported.manifest.engines), None)
    made = Made(
        AP=parts.trained.judged.statistics.require_ap(),
        AP50=parts.trained.judged.statistics.AP50,
        live_ap=report.live.require_ap(),
        bundle_ap=report.worst.statistics.require_ap(),
        map_drop=report.worst.map_drop,
        head=best.row.head,
        options=best.row.options,
        parameters=best.row.parameters or 0,
        epochs=best.epochs,
        size=choice.size,
        flips=choice.flips,
        train_pictures=choice.train,
        val_pictures=choice.val,
        judged=_judged(parts),
        backbone=parts.chosen.request.backbone,
        why=_why(parts),
        remarks=parts.remarks,
        trials=[
            {
                "head": trial.row.head,
                "pictures": trial.train.folder.name,
                "epochs": trial.epochs,
                "AP": trial.row.metrics["AP"],
                "seconds": trial.row.seconds,
            }
            for trial in parts.trained.trials
        ],
        engine=str(parts.exported.bundle / engine.file) if engine and parts.exported.bundle else None,
        engine_status=engine.status if engine else "; ".join(parts.exported.remarks),
        bundle=str(parts.exported.bundle),
        page=str(request.work / "index.html"),
        report=str(parts.exported.report_file),
        work=str(request.work),
        steps=dict(seconds),
        seconds=round(sum(seconds.values()), 1),
        commands=_commands(request, parts),
    )
    proof = (
        f"The bundle is proven: on {parts.proven:,} pictures PyTorch has AP {made.live_ap:.4f} and its graph "
        f"{made.bundle_ap:.4f}."
    )
    story = Story(
        name=request.output.stem,
        data=parts.division.data,
        judged=made.judged,
        why=made.why,
        remarks=parts.remarks,
        input=choice.size,
        trials=parts.trained.trials,
        failed=parts.trained.failed,
        proof=proof,
        seconds=seconds,
        commands=made.commands,
        answer=asdict(made),
    )
    write_page(parts.trained.judged, story, request.work)
    return made


def _judged(parts: Parts) -> str:
    if parts.division.folds:
        return (
            f"Every picture was judged by a head that had not seen it ({len(parts.division.folds)} folds); the "
            "bundle's head learned from all."
        )
    trials = len(parts.trained.trials)
    chosen = f"the best epoch{f' of {trials} trainings' if trials > 1 else ''} was chosen by them"
    return f"Judged by {parts.choice.val:,} pictures that were not trained on; {chosen}, so it is slightly optimistic."


def _why(parts: Parts) -> dict[str, list[str]]:
    """Every choice with its reasons."""
    best, choice = parts.trained.trials[0], parts.choice
    config = read_json(best.run / RUN.record)["training"]
    return {
        "pictures": [parts.division.sentence],
        "backbone": [parts.chosen.request.backbone, *parts.chosen.why],
        "input": [
            *choice.why,
            f"the features take {sized(choice.bytes)} and {span(choice.seconds)} to cache, "
            f"{choice.picture_seconds:.3f} s a picture (measured)",
        ],
        "head": [f"{best.row.head} in {best.epochs} epochs, of the highest AP", *parts.trained.tried],
        "training": [
            f"{config['batch']} pictures a step, learning rate {config['lr']:g}, weight decay "
            f"{config['weight_decay']:g}, {config['precision']} (the faster precision here where there was a choice)"
        ],
    }


def _commands(request: Request, parts: Parts) -> list[tuple[str, str]]:
    bundle, best = shlex.quote(str(request.output)), shlex.quote(str(parts.trained.trials[0].run))
    place = shlex.quote(str(place_of(parts.chosen.request, parts.choice)))
    val = "train" if parts.division.folds else "val"
    compare = f"detheads arena run --cache {place}/train --val {place}/{val} -o arena"
    return [
        (f"detheads deploy run {bundle} PHOTOS -o found", "detect in pictures; no PyTorch is needed where it runs"),
        (f"detheads deploy serve {bundle}", "a server with a page to try it"),
        (f"detheads deploy bench {bundle}", "how fast it is here"),
        (f"detheads bundle prove {bundle}", "prove the bundle again, on another machine too"),
        (f"detheads eval {best} --cache {place}/{val}", "all figures of the head again"),
        (compare, "compare all heads on what is cached"),
        *_more_time(request),
    ]


def _more_time(request: Request) -> list[tuple[str, str]]:
    if not request.budget.limited:
        return []
    budget = "1h" if request.budget.seconds < 3600 else BEST
    line = ["detheads", "make", str(request.data), "-o", str(request.output), "--budget", budget]
    if request.work != work_folder(request.output):
        line += ["--work", str(request.work)]
    if request.named:
        for each in request.candidates:
            line += ["--backbone", each.name if each.weights is None else f"{each.name}={each.weights}"]
    return [(shlex.join(line), "more time: what is cached is used again")]
