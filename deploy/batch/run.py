"""A batch run from its first start to its end, through as many starts as it takes."""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from detheads.deploy.batch.part import open_detector, result_of, run_part
from detheads.deploy.batch.plan import BATCH_RUN, Job, fix_lists
from detheads.deploy.batch.summary import Summary, summarise
from detheads.deploy.detector import Detector
from detheads.foundation import atomic
from detheads.foundation.claims import claimed
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, Remark, silent, unheard
from detheads.foundation.ray_cluster import Tally, Tell, Workers, run_parts


def run_batch(
    job: Job,
    workers: Workers,
    *,
    on_progress: Progress = silent,
    on_remark: Remark = unheard,
) -> Summary:
    """Run all parts that are not done yet, in this process (``workers.count`` 0) or on Ray.

    A part is done when its files are whole (see :mod:`detheads.deploy.batch.part`), whoever wrote them and when: after
    a crash the same call goes on. Files of parts depend on neither the number of workers nor on who was killed.

    Raises:
        UserError: when bundle, sources or options are others than at the first start, another process runs the batch,
            no worker starts, or the disk is full.
    """
    output = Path(job.output)
    atomic.try_output(output, folder=True)
    detector = None if workers.count else open_detector(job)  # what is missing is told before a long listing
    if workers.count:
        importlib.import_module("ray")
    with claimed(output, BATCH_RUN, job.described(), {"bundle": job.bundle}):
        lists = fix_lists(job, on_progress, on_remark)
        missing = [part for part in range(lists.parts) if result_of(output, part) is None]
        sizes = {part: min(job.part_size, lists.pictures - part * job.part_size) for part in missing}
        if len(missing) < lists.parts:
            on_remark(f"{lists.parts - len(missing)} of {lists.parts} parts are done already")
        failed: dict[int, str] = {}
        tally = Tally("detecting", sizes, on_progress, lists.pictures - sum(sizes.values()))
        tally.report()

        def on_part(part: int, failure: str, _: object = None) -> None:
            if failure:
                failed[part] = failure
                on_remark(f"part {part} is given up: {failure.rstrip('.')}")
            else:
                tally.finish(part)

        try:
            if detector is not None:
                _run_here(detector, job, missing, workers.retries, on_part, on_remark)
            else:
                run_parts(partial(_prepared, job), missing, workers, on_part, on_far=tally.far, on_remark=on_remark)
        except OSError as error:
            if not atomic.is_full(error):
                raise
            raise UserError(
                f"the disk of {output} is full; free some space and run the same command again, which goes on."
            ) from None
        return summarise(job, lists, failed)


def _prepared(job: Job) -> Callable[[int, Tell], None]:
    """What a worker on Ray does with a part, with the bundle open."""
    detector = open_detector(job)

    def work(part: int, tell: Tell) -> None:
        run_part(detector, job, part, tell)

    return work


def _run_here(
    detector: Detector,
    job: Job,
    parts: Sequence[int],
    retries: int,
    on_part: Callable[[int, str], None],
    on_remark: Remark,
) -> None:
    for part in parts:
        for attempt in range(retries + 1):
            try:
                run_part(detector, job, part)
            except OSError as error:  # a network's file system, mostly
                if atomic.is_full(error):
                    raise
                failure = f"{type(error).__name__}: {error}"
                if attempt < retries:
                    on_remark(f"part {part} is done again: {failure}")
            else:
                failure = ""
                break
        on_part(part, failure)
