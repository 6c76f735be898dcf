"""The end of a making: the bundle with its proof, and what time has to be kept for it."""

import math
from pathlib import Path

from detheads.data import Dataset
from detheads.export.pipeline import ExportResult, export_run
from detheads.export.proof import Proof
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress
from detheads.make.budget import Budget, span
from detheads.make.divide import subset
from detheads.make.request import Request

SAFETY = 0.9
"""Share of the budget that is planned with: other programs on the machine take their part of it."""
FEWEST_SECONDS = 20.0
"""Of training, in which a head learns anything at all."""
FIXED_SECONDS = 40.0
"""Tracing, the engine, the report and the page, whatever the pictures (20 to 40 s on two cores of an AMD EPYC)."""
PROOF_VIEWS = 4
"""A proof runs each picture through PyTorch once and through the graph in three batch sizes; each takes about as long
as caching it."""
PROOF_SHARE = 0.15
"""Of the budget that the pictures of the proof may take."""
FEWEST_PROVEN = 20
"""Pictures that a proof shows, where there are as many, whatever the budget."""


def proof_pictures(judges: int, picture_seconds: float, budget: Budget) -> int:
    """How many pictures prove the bundle: all that judge, or as many as the budget has time for."""
    if not budget.limited:
        return judges
    return min(judges, max(FEWEST_PROVEN, int(budget.seconds * PROOF_SHARE / (PROOF_VIEWS * picture_seconds))))


def require_time(budget: Budget, needed: float) -> None:
    """Refuse a budget in which nothing could be learned.

    Args:
        needed: seconds for all but the training.

    Raises:
        UserError: saying how much would do.
    """
    if budget.seconds * SAFETY < needed + FEWEST_SECONDS:
        minutes = math.ceil((needed + FEWEST_SECONDS) / SAFETY / 60)
        raise UserError(
            f"a budget of {budget.text} is too small for anything: all but the training takes about {span(needed)} "
            f"here, and the training wants {span(FEWEST_SECONDS)} at least; give --budget {minutes}m."
        )


def ending_seconds(pictures: int, picture_seconds: float) -> float:
    """What export, proof and page will take, from the measured time of a picture."""
    return FIXED_SECONDS + pictures * PROOF_VIEWS * picture_seconds


def export_proven(run: Path, request: Request, judges: Dataset, pictures: int, on_progress: Progress) -> ExportResult:
    """The bundle of a run with its proof on some of the pictures that judge.

    Raises:
        UserError: when the exported graph does not equal the original, or another bundle is in the way.
    """
    exported = export_run(
        run,
        request.output,
        proof=Proof(subset(judges, pictures, request.seed), skip_bad=request.skip_bad),
        weights=request.weights,
        force=may_replace(request),
        on_progress=on_progress,
    )
    if exported.bundle is None:
        raise UserError(f"the exported graph does not equal the original; see {exported.report_file}.")
    return exported


def may_replace(request: Request) -> bool:
    """Whether the bundle there was made in the same working folder before, or is to be replaced as asked for."""
    if request.force:
        return True
    try:
        heads = read_manifest(request.output).heads
    except UserError:
        return False
    made = {head.hashes.get("checkpoint") for head in heads}
    return any(atomic.sha256_of(path) in made for path in request.work.rglob("best.safetensors"))
