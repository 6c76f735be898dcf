"""The pass over a cache by the workers of a Ray cluster: each sums a range of images, and the sums are added up."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch

from detheads.analytical.passes import BATCH
from detheads.analytical.plan import Plan
from detheads.analytical.statistics import Statistics, collect, load_statistics, resumed
from detheads.cache.reader import FeatureCache
from detheads.foundation import locks
from detheads.foundation.claims import Kind, claimed
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, Remark
from detheads.foundation.ray_cluster import Tally, Tell, Workers, run_parts
from detheads.training.checkpoint import matching_cache

COLLECTION: Final = Kind("collection.json", "a collection of statistics", "collecting in")
PLAN_NAME: Final = "plan.safetensors"


@torch.no_grad()
def collect_on_ray(
    cache: FeatureCache,
    plan: Plan,
    path: Path,
    first: int,
    end: int,
    workers: Workers,
    on_progress: Progress,
    on_remark: Remark,
) -> Statistics:
    """Sum images ``first`` to ``end`` of a cache, a range a worker; all machines see cache and result alike.

    What each has summed lies in a folder beside ``path``, from which a killed worker's or a killed run's part goes on,
    and which is removed when ``path`` holds the whole. The sums are those of :func:`collect`, added in another order.

    Raises:
        ModuleNotFoundError: when Ray is not installed.
        UserError: as :func:`collect`; when there is no cluster, it has not what a worker needs, or a part was given up.
    """
    sha256 = cache.sha256
    statistics = resumed(path, plan, sha256, first, end) or Statistics.empty(plan)
    start = statistics.parts[0][2] if statistics.parts else first
    folder = path.with_name(path.name + ".parts")
    if start == end:
        _clear(folder)
        return statistics
    described = {"cache": sha256, "images": [start, end], "options": plan.identity.head_config}
    described["classes"] = [category.name for category in plan.identity.categories]
    with claimed(folder, COLLECTION, described, {"parts": _divided(start, end, workers.count)}) as recorded:
        parts = [(int(a), int(b)) for a, b in recorded["parts"]]
        if (folder / PLAN_NAME).is_file():
            plan.require_same_rows(load_statistics(folder / PLAN_NAME).plan, str(folder))
        else:
            Statistics.empty(plan).save(folder / PLAN_NAME)
        tally = Tally("statistics", {number: b - a for number, (a, b) in enumerate(parts, start=1)}, on_progress)
        failures: list[str] = []

        def on_part(number: int, failure: str, _: Any) -> None:
            if failure:
                failures.append(f"part {number} of {len(parts)} was given up: {failure.rstrip('.')}")
            else:
                tally.finish(number)

        work = partial(_prepared, folder.resolve(), cache.folder.resolve(), parts)
        run_parts(work, list(tally.sizes), workers, on_part, on_far=tally.far, on_remark=on_remark)
        if failures:
            raise UserError(f"{failures[0]}; the same command begins it again.")
        for number in tally.sizes:
            statistics.merge(load_statistics(_file(folder, number)))
        statistics.parts = [(sha256, first, end)]
        statistics.save(path)
    _clear(folder)
    return statistics


def _clear(folder: Path) -> None:
    """Remove the folder of the parts, which a run that was killed at its very end has left."""
    if (folder / COLLECTION.record).is_file():
        locks.remove(folder)


def _divided(start: int, end: int, count: int) -> list[tuple[int, int]]:
    """Ranges for ``count`` workers at most, which begin where one pass begins a batch."""
    batches = -(-(end - start) // BATCH)
    count = min(count, batches)
    edges = [start + BATCH * (batches * part // count) for part in range(count)] + [end]
    return list(pairwise(edges))


def _prepared(folder: Path, cache: Path, parts: list[tuple[int, int]]) -> Callable[[int, Tell], None]:
    """What a worker does with a part: sum it into its file."""
    plan = load_statistics(folder / PLAN_NAME).plan
    opened = matching_cache(plan.identity, FeatureCache(cache))

    def work(number: int, tell: Tell) -> None:
        collect(opened, plan, _file(folder, number), *parts[number - 1], lambda step, done, total: tell(done, total))

    return work


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"
