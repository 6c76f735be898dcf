"""The end of a making: the bundle with its proof, and what time has to be kept for it."""

from pathlib import Path

from detheads.data import Dataset
from detheads.export.pipeline import ExportResult, export_run
from detheads.export.proof import Proof
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress
from detheads.make.budget import Budget
from detheads.make.divide import subset
from detheads.make.request import Request

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
        force=request.force or _made_here(request),
        on_progress=on_progress,
    )
    if exported.bundle is None:
        raise UserError(f"the exported graph does not equal the original; see {exported.report_file}.")
    return exported


def _made_here(request: Request) -> bool:
    """Whether the bundle there is one that an earlier attempt in the same working folder made."""
    try:
        heads = read_manifest(request.output).heads
    except UserError:
        return False
    made = {head.hashes.get("checkpoint") for head in heads}
    return any(atomic.sha256_of(path) in made for path in request.work.rglob("best.safetensors"))
