"""How the regularisation matters: many strengths from the same statistics, a solve each and no further pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detheads.analytical.fit import STATISTICS_NAME
from detheads.analytical.solve import Strengths, solve_first_stage
from detheads.analytical.statistics import load_statistics
from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import Statistics
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation.progress import Progress
from detheads.training.checkpoint import matching_cache


@dataclass(frozen=True)
class SweepPoint:
    """One combination of strengths and what the first stage reaches with it."""

    strengths: Strengths
    statistics: Statistics


@torch.inference_mode()
def sweep(
    model: Path, cache: FeatureCache, alphas: Sequence[float], shrinkages: Sequence[float], on_progress: Progress
) -> list[SweepPoint]:
    """Solve and evaluate the first stage of a fitted model for each penalty and each shrinkage.

    Rounds are left out: what they learn from depends on the first stage, so each would need a pass of its own.

    Raises:
        UserError: when the model's statistics are gone, or the cache is of another backbone, size or classes.
    """
    statistics = load_statistics(model / STATISTICS_NAME)
    identity = statistics.plan.identity
    cache = matching_cache(identity, cache)
    options, tensors = identity.head_config | {"rounds": 0}, dict(statistics.plan.tensors)
    if options["view"] == "bands":  # nothing looks at components then
        options["components"], tensors["components"] = 0, tensors["components"][:, :0]
    plan = replace(statistics.plan, identity=replace(identity, head_config=options), tensors=tensors)
    points = []
    combinations = [(alpha, shrinkage) for shrinkage in shrinkages for alpha in alphas]
    for done, (alpha, shrinkage) in enumerate(combinations):
        strengths = Strengths(shrinkage=shrinkage, alpha=alpha)
        head = plan.build_head()
        solve_first_stage(statistics, strengths, head)
        points.append(SweepPoint(strengths, evaluate_cache(head, cache)))
        on_progress("sweep", done + 1, len(combinations))
    return points
