"""One making from pictures to a proven bundle: look, choose, cache, train, judge, export, prove, tell."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from shutil import disk_usage
from typing import Any

import torch

from detheads.backbones.backbone import Backbone
from detheads.export.target import require_target
from detheads.foundation import atomic, claims
from detheads.foundation.progress import Progress, Remark, silent, unheard
from detheads.foundation.text import json_text
from detheads.make.altered import altered_bytes, altered_pictures, altered_seconds, cache_altered
from detheads.make.backbones import choose_backbone
from detheads.make.caching import Caches, Encoders, build_caches, decide_input
from detheads.make.contenders import FIRST_HEADS, contenders_for
from detheads.make.contest import Contest
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
from detheads.make.made import Made, Parts, Trained, tell
from detheads.make.request import Request
from detheads.make.sizes import DISK_SHARE, InputChoice
from detheads.ops.devices import pick_device, use_threads
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
    use_threads(request.threads)
    contenders_for(request, device)
    for each in request.candidates:  # what the user chose himself and cannot be ends it here
        Encoders(replace(request, backbone=each.name, weights=each.weights), device).at(request.size)
    look = look_at(request)
    with claims.claimed(request.work, MAKING, _described(request, look)):
        ledger = Ledger(request.work, _asked(request))
        with ledger.step("look"):
            remarks: list[str] = ledger.decided("remarks", lambda: check(look, request, on_progress))
            division = divide(look, request, on_progress)
        for sentence in (*remarks, division.sentence):
            on_remark(sentence)
        with ledger.step("backbone"):
            chosen = choose_backbone(request, division, ledger, device, on_progress)
            asked, request = request, chosen.request
            encoders = Encoders(request, device)
        if asked.rivals:
            on_remark(f"{request.backbone} is used: {'; '.join(chosen.why)}")
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
            work = _Work(request, caches, choice, encoders.at(choice.size), ledger, left, device, on_progress)
            trained = _in_folds(work) if caches.folds else _in_contest(work)
        for sentence in trained.tried:
            on_remark(sentence)
        run = trained.trials[0].run
        with ledger.step("export and proof"):
            exported = export_proven(run, request, caches.judges, proven, on_progress)
        on_progress("page", 0, 0)
        with ledger.step("page"):
            made = tell(
                asked, Parts(look, division, remarks, chosen, choice, trained, exported, proven), ledger.seconds
            )
    return made


@dataclass(frozen=True)
class _Work:
    """What trainings need."""

    request: Request
    caches: Caches
    choice: InputChoice
    encoder: Backbone
    ledger: Ledger
    left: Callable[[], float]
    device: torch.device
    on_progress: Progress


def _in_contest(work: _Work) -> Trained:
    """Heads compared by the pictures that judge."""
    request, caches, left = work.request, work.caches, work.left
    contest = Contest(request, caches.train, caches.val, work.ledger, left, work.device, work.on_progress)
    contest.compare_heads(contest.contenders[:FIRST_HEADS])
    if request.epochs is None:
        contest.train_longer()
        if altered_bytes(caches, work.encoder) <= disk_usage(caches.train.folder).free * DISK_SHARE:
            contest.try_altered(
                lambda: cache_altered(request, caches, work.encoder, work.on_progress),
                altered_pictures(caches),
                altered_seconds(caches, work.choice.picture_seconds),
            )
    contest.compare_heads(contest.contenders[FIRST_HEADS:])
    failed = [f"{row.head} failed: {row.error}" for row in contest.failed]
    return Trained(contest.trials, failed, contest.why, evaluate_run(contest.best.run, caches.val, device=work.device))


def _in_folds(work: _Work) -> Trained:
    """Heads judged by pictures that they have not seen, fold by fold."""
    caches = work.caches
    folded = cross_validate(
        work.request, caches.train, caches.folds, work.ledger, work.left, work.device, work.on_progress
    )
    row, settings = folded.trials[0].row, caches.train.manifest.settings
    judged = Evaluated(
        name=str(folded.trials[0].run),
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
    return Trained(folded.trials, (), folded.why, judged)


def _described(request: Request, look: Look) -> dict[str, Any]:
    """What makes it another making, which needs another folder; with more time or other choices one goes on."""
    digest = hashlib.sha256()
    for part in (look.train, look.val):
        digest.update(b"" if part is None else json_text(part.coco_json(), indent=None).encode())
    return {
        "dataset": look.train.name,
        "annotations_sha256": digest.hexdigest(),
        "backbones": {
            each.name: None if each.weights is None else atomic.sha256_of(each.weights) for each in request.candidates
        },
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
