"""The whole fit: plan, one pass of statistics, solves, rounds, a checkpoint like that of a trained head."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detheads import __version__
from detheads.analytical.config import Config
from detheads.analytical.estimators import save_estimators
from detheads.analytical.on_ray import collect_on_ray
from detheads.analytical.plan import Plan, make_plan
from detheads.analytical.rounds import solve_round
from detheads.analytical.solve import Strengths, solve_first_stage
from detheads.analytical.statistics import Statistics, collect, load_statistics
from detheads.cache.reader import FeatureCache
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import atomic, claims
from detheads.foundation.claims import Kind
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, Remark, silent, unheard
from detheads.foundation.ray_cluster import Workers
from detheads.headkit.cost import parameters_of
from detheads.training.checkpoint import checkpoint_path, matching_cache, save_checkpoint, untrained

STATISTICS_NAME = "statistics.safetensors"
ESTIMATORS_NAME = "estimators.safetensors"
FIT_NAME = "fit.json"
FIT = Kind(FIT_NAME, "a fit", "fitting in")


@dataclass(frozen=True)
class FitResult:
    """A fitted detector.

    Attributes:
        metrics: COCO statistics on the validation cache; empty without one.
        seconds: wall time of ``statistics`` (survey and pass), ``solve``, ``rounds`` and ``evaluation``.
        remarks: what was regularised or taken together, and why.
    """

    model: Path
    parameters: int
    images: int
    rows: int
    metrics: dict[str, Any]
    seconds: dict[str, float]
    remarks: list[str]


def collect_part(
    cache: FeatureCache,
    config: Config,
    path: Path,
    part: tuple[int, int],
    on_progress: Progress,
    like: Path | None = None,
    workers: Workers | None = None,
    on_remark: Remark = unheard,
) -> Statistics:
    """The statistics of part ``i`` of ``n`` (1-based) of a cache, for a fit that merges them.

    Args:
        workers: of Ray, which share the part out; this process when there are none.
        like: statistics, or the folder of a fit, of another cache whose anchors, components and options these rows are
            to have, so that both add up; ``config`` is not used then.

    Raises:
        UserError: when there is no such part, or the cache is of another backbone, size or classes than ``like``.
    """
    index, count = part
    if not 1 <= index <= count <= len(cache):
        raise UserError(f"--part {index}/{count} does not exist for {len(cache)} images; give I/N with I from 1 to N.")
    first, end = (len(cache) * at // count for at in (index - 1, index))
    if like is None:
        plan = make_plan(cache, config, on_progress)
    else:
        other = load_statistics(like / STATISTICS_NAME if like.is_dir() else like).plan
        cache = matching_cache(other.identity, cache)
        plan = Plan(untrained(other.identity.head_name, other.identity.head_config, cache), other.tensors)
    if workers is None or not workers.count:
        return collect(cache, plan, path, first, end, on_progress)
    return collect_on_ray(cache, plan, path, first, end, workers, on_progress, on_remark)


def fit(
    cache: FeatureCache,
    config: Config,
    output: Path,
    *,
    strengths: Strengths | None = None,
    val: FeatureCache | None = None,
    parts: Sequence[Path] = (),
    on_progress: Progress = silent,
) -> FitResult:
    """Fit a detector on a cache; run again, it goes on where it was stopped.

    Args:
        cache: the training cache, restricted to the classes to find.
        output: folder of the model: ``best.safetensors`` (what ``eval`` and ``export`` read), the statistics, the
            scikit-learn estimators, and ``fit.json``.
        val: cache to evaluate on.
        parts: statistics collected elsewhere, to merge instead of a pass over ``cache``. They hold every image of it,
            and may hold those of other caches, collected with ``like``; rounds look at ``cache`` only.

    Raises:
        UserError: when there is nothing to fit, ``val`` does not match, the parts do not belong together or do not
            cover the cache, the folder holds something else, or another process fits in it. Nothing is written then.
    """
    strengths = strengths or Strengths()
    described = describe(cache, config, strengths, parts)
    with claims.claimed(output, FIT, described):
        result = _fit(cache, config, output, strengths, val, parts, on_progress)
        measured = {key: value for key, value in asdict(result).items() if key != "model"}
        atomic.write_json(output / FIT_NAME, described | measured)
    return result


def _fit(
    cache: FeatureCache,
    config: Config,
    output: Path,
    strengths: Strengths,
    val: FeatureCache | None,
    parts: Sequence[Path],
    on_progress: Progress,
) -> FitResult:
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    plan = make_plan(cache, config, on_progress)
    if val is not None:
        val = matching_cache(plan.identity, val)
    if parts:
        statistics = _merged(parts, plan, cache)
        statistics.save(output / STATISTICS_NAME)
    else:
        statistics = collect(cache, plan, output / STATISTICS_NAME, 0, len(cache), on_progress)
    seconds["statistics"] = time.perf_counter() - started

    started = time.perf_counter()
    head = plan.build_head()
    solution = solve_first_stage(statistics, strengths, head)
    seconds["solve"] = time.perf_counter() - started

    started = time.perf_counter()
    digest = atomic.sha256_of(output / STATISTICS_NAME)
    for index in range(config.rounds):
        token = _token(digest, config, strengths, index)
        path = output / f"round{index}.safetensors"
        solve_round(cache, head, index, strengths.region_alpha, path, token, solution, on_progress)
    seconds["rounds"] = time.perf_counter() - started

    started = time.perf_counter()
    metrics: dict[str, Any] = {}
    if val is not None:
        metrics = evaluate_cache(head, val, on_progress=on_progress).to_dict()
    seconds["evaluation"] = time.perf_counter() - started

    save_estimators(output / ESTIMATORS_NAME, solution.estimators)
    checkpoint = replace(plan.identity, metrics=metrics, tensors=head.state_dict())
    save_checkpoint(checkpoint_path(output, "best"), checkpoint)
    return FitResult(
        output,
        parameters_of(head.requires_grad_(True)),
        statistics.images,
        statistics.rows,
        metrics,
        {name: round(value, 2) for name, value in seconds.items()},
        solution.remarks,
    )


def _merged(parts: Sequence[Path], plan: Plan, cache: FeatureCache) -> Statistics:
    """The sum of statistics collected before, under the plan of this fit; they hold all images of the cache."""
    statistics = Statistics.empty(plan)
    for path in parts:
        part = load_statistics(path)
        plan.require_same_rows(part.plan, str(path))
        statistics.merge(part)
    sha256 = cache.sha256
    own = [(first, end) for known, first, end in statistics.parts if known == sha256]
    if sum(end - first for first, end in own) != len(cache):
        held = ", ".join(f"{first + 1} to {end}" for first, end in own) or "none"
        raise UserError(
            f"the statistics given hold images {held} of the {len(cache)} of {cache.folder}; give every part once, "
            "and finish a stopped one with the same 'detheads analytical collect'."
        )
    return statistics


def describe(cache: FeatureCache, config: Config, strengths: Strengths, parts: Sequence[Path]) -> dict[str, Any]:
    """What makes a fit another one."""
    return {
        "options": asdict(config),
        "strengths": asdict(strengths),
        "classes": cache.dataset.class_names,
        "backbone": cache.manifest.settings.backbone,
        "cache_sha256": cache.sha256,
        "parts": sorted(atomic.sha256_of(path) for path in parts if path.is_file()),
        "detheads_version": __version__,
    }


def _token(*parts: object) -> str:
    """Digest of what a round depends on."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()
