"""What each part of the closed-form detector is worth: rows that differ in one choice, on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detheads.analytical.config import PRESETS, Config
from detheads.analytical.fit import FIT, FitResult, describe, fit
from detheads.analytical.plan import make_plan
from detheads.analytical.solve import Strengths
from detheads.analytical.statistics import collect
from detheads.cache.reader import FeatureCache
from detheads.foundation import claims
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress

_REFERENCE, _REFINED = PRESETS["reference"], PRESETS["refined"]
_CONTEXT = replace(_REFINED, rounds=0, voting=0.0)

ROWS: dict[str, Config] = {
    "reference": _REFERENCE,
    "gaussian-mixture": replace(_REFERENCE, classifier="gmm"),
    "soft-anchors": replace(_REFERENCE, anchor="soft"),
    "equal-covariances": replace(_REFERENCE, covariance="equal"),
    "per-level": replace(_REFERENCE, directions="per_level"),
    "context": _CONTEXT,
    "context-per-level": replace(_CONTEXT, directions="per_level"),
    "reference-2-rounds": replace(_REFERENCE, components=_REFINED.components, rounds=2),
    "1-round": replace(_REFINED, rounds=1, voting=0.0),
    "2-rounds": replace(_REFINED, voting=0.0),
    "3-rounds": replace(_REFINED, rounds=3, voting=0.0),
    "random-features": replace(_REFINED, hidden=1024),
    "refined": _REFINED,
}
"""The first is the source's detector, the next two its negative results; the others are what a closed form allows."""


@dataclass(frozen=True)
class AblationRow:
    """One row: its name, its options and its fit."""

    name: str
    config: Config
    result: FitResult

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        metrics = {key: self.result.metrics[key] for key in ("AP", "AP50", "AP75", "AR100")}
        return {"row": self.name, "parameters": self.result.parameters, **metrics, "seconds": self.result.seconds}


_RESULT_KEYS = ("parameters", "images", "rows", "metrics", "seconds", "remarks")


def ablate(
    cache: FeatureCache,
    val: FeatureCache,
    output: Path,
    names: Sequence[str],
    strengths: Strengths,
    on_progress: Progress,
) -> list[AblationRow]:
    """Fit and evaluate the named rows; rows of one view share one pass. Run again, finished rows are kept.

    Raises:
        UserError: when a row is unknown, a finished row was fitted with other strengths, or a fit fails.
    """
    for name in names:
        if name not in ROWS:
            raise UserError(f"unknown ablation row {name!r}; there are {', '.join(ROWS)}.")
    rows, collected = [], set[str]()
    for name in names:
        config = ROWS[name]
        shared = output / f"statistics-{config.view}.safetensors"
        if config.view not in collected:
            collect(cache, make_plan(cache, config, on_progress), shared, 0, len(cache), on_progress)
            collected.add(config.view)

        def named(step: str, done: int, total: int, name: str = name) -> None:
            on_progress(f"{name}: {step}", done, total)

        folder = output / name
        with claims.claimed(folder, FIT, describe(cache, config, strengths, [shared])) as finished:
            pass
        if finished.get("metrics"):
            result = FitResult(folder, **{key: finished[key] for key in _RESULT_KEYS})
        else:
            result = fit(cache, config, folder, strengths=strengths, val=val, parts=[shared], on_progress=named)
        rows.append(AblationRow(name, config, result))
    return rows
