"""One making from pictures to a proven bundle: look, choose, cache, train, judge, export, prove, tell."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from detheads.export.target import require_target
from detheads.foundation import atomic, claims
from detheads.foundation.progress import Progress, Remark, silent, unheard
from detheads.foundation.text import json_text
from detheads.make.caching import Caches, Encoders, build_caches, decide_input
from detheads.make.contest import Contest, hold_contest
from detheads.make.divide import divide
from detheads.make.ending import (
    FIXED_SECONDS,
    SAFETY,
    ending_seconds,
    export_proven,
    may_replace,
    proof_pictures,
    require_time,
)
from detheads.make.folds import cross_validate
from detheads.make.ledger import Ledger
from detheads.make.look import Look, check, look_at
from detheads.make.made import Made, Parts, tell
from detheads.make.request import Request
from detheads.ops.devices import pick_device
from detheads.report.evaluated import Evaluated, evaluate_run

MAKING = claims.Kind("make.json", "a making", "making a bundle in", "choose another bundle with -o")


def make(request: Request, on_progress: Progress = silent, on_remark: Remark = unheard) -> Made:
    """Make a bundle; interrupted and called again it goes on.

    Raises:
        UserError: when the dataset, the budget, the disk or a choice of the user is impossible, which is said before
            the work as far as it can be known, or the bundle's place is taken.
    """
    require_target(request.output, may_replace(request))
    require_time(request.budget, FIXED_SECONDS)
    device = pick_device(request.device)
    encoders = Encoders(request, device)
    encoders.at(request.size)  # an unknown backbone, missing weights or an impossible size end it here
    look = look_at(request)
    with claims.claimed(request.work, MAKING, _described(request, look)):
        ledger = Ledger(request.work, _asked(request))
        with ledger.step("look"):
            remarks: list[str] = ledger.decided("remarks", lambda: check(look, request, on_progress))
            division = divide(look, request, on_progress)
        for sentence in (*remarks, division.sentence):
            on_remark(sentence)
        with ledger.step("cache"):
            choice = decide_input(request, division, ledger, encoders, on_progress)
            proven = proof_pictures(choice.val or choice.train, choice.picture_seconds, request.budget)
            ending = ending_seconds(proven, choice.picture_seconds)
            spent = ledger.elapsed + choice.seconds + ending
            ledger.decided("time", lambda: require_time(request.budget, spent))
            ledger.keep()
            on_remark("; ".join(choice.why))
            caches = build_caches(request, division, choice, encoders, on_progress)

        def left() -> float:
            return request.budget.seconds * SAFETY - ending - ledger.elapsed

        with ledger.step("train"):
            contest, judged = _train(request, caches, ledger, left, device, on_progress)
        for sentence in contest.why:
            on_remark(sentence)
        with ledger.step("export and proof"):
            exported = export_proven(contest.best.run, request, caches.judges, proven, on_progress)
        on_progress("page", 0, 0)
        with ledger.step("page"):
            parts = Parts(look, division, remarks, choice, contest, judged, exported, proven)
            made = tell(request, parts, ledger.seconds)
    return made


def _train(
    request: Request,
    caches: Caches,
    ledger: Ledger,
    left: Callable[[], float],
    device: torch.device,
    on_progress: Progress,
) -> tuple[Contest, Evaluated]:
    """The heads that were trained, and how the best one was judged."""
    if not caches.folds:
        contest = hold_contest(request, caches.train, caches.val, ledger, left, device, on_progress)
        return contest, evaluate_run(contest.best.run, caches.val, device=device)
    folded = cross_validate(request, caches.train, caches.folds, ledger, left, device, on_progress)
    row, settings = folded.contest.best.row, caches.train.manifest.settings
    judged = Evaluated(
        name=str(folded.contest.best.run),
        dataset=caches.train.dataset,
        detections=folded.detections,
        statistics=folded.statistics,
        facts={
            "Head": f"{row.head}, {row.parameters:,} parameters",
            "Options": ", ".join(f"{name} {value}" for name, value in row.options.items()) or "none",
            "Features": f"{settings.backbone}, input {settings.width} x {settings.height} pixels",
        },
        head=(row.head, row.parameters or 0),
    )
    return folded.contest, judged


def _described(request: Request, look: Look) -> dict[str, Any]:
    """What makes it another making, which needs another folder; with more time or other choices one goes on."""
    digest = hashlib.sha256()
    for part in (look.train, look.val):
        digest.update(b"" if part is None else json_text(part.coco_json(), indent=None).encode())
    return {
        "dataset": look.train.name,
        "annotations_sha256": digest.hexdigest(),
        "backbone": request.backbone,
        "weights_sha256": None if request.weights is None else atomic.sha256_of(request.weights),
        "seed": request.seed,
    }


def _asked(request: Request) -> dict[str, Any]:
    """What decisions depend on."""
    return {
        "budget": request.budget.text,
        "size": None if request.size is None else list(request.size),
        "head": request.head,
        "options": dict(request.options),
        "epochs": request.epochs,
        "precision": request.precision,
        "device": request.device,
        "skip_bad": request.skip_bad,
    }
