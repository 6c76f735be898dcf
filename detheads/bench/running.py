"""What ``deploy run`` costs beside the detector itself, on the same pictures in the same process."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from detheads.deploy.detector import Detector
from detheads.deploy.inputs import InputImage
from detheads.deploy.run import run_images
from detheads.foundation.progress import Progress
from detheads.foundation.timing import Contender, take_turns

BASELINE, PLAIN, DRAWN = "detector", "run", "run with pictures"


@dataclass(frozen=True)
class RunBench:
    """Images a second, medians of ``rounds`` rounds over ``images`` pictures.

    Attributes:
        detector: ``Detector`` on the files (baseline).
        run: ``deploy run --no-pictures``.
        drawn: ``deploy run``.
        ratio, drawn_ratio: over the baseline; above 1 it is faster.
        cpu_ratio: processor seconds of the baseline over those of ``run``, which other programs disturb less: below 1
            it computes more, though perhaps at the same time.
    """

    images: int
    rounds: int
    batch: int
    detector: float
    run: float
    drawn: float
    ratio: float
    drawn_ratio: float
    cpu_ratio: float


def bench_run(
    detector: Detector, inputs: Sequence[InputImage], batch: int, rounds: int, on_progress: Progress
) -> RunBench:
    """Let ``Detector`` and ``run_images`` take turns on the same files.

    Args:
        batch: pictures in one run of the graph, of both.
        rounds: that are measured; one more comes before.
    """
    paths = [source.path for source in inputs]
    processor: dict[str, list[float]] = {BASELINE: [], PLAIN: [], DRAWN: []}

    def counted(name: str, work: Contender) -> None:
        started = time.process_time()
        work()
        processor[name].append(time.process_time() - started)

    with TemporaryDirectory() as folder:

        def run(number: int, pictures: bool) -> None:
            run_images(detector, inputs, Path(folder) / f"{number}{pictures}", batch=batch, pictures=pictures)

        def contenders(number: int) -> dict[str, Contender]:
            on_progress("rounds", number, rounds + 1)
            works: dict[str, Contender] = {
                BASELINE: lambda: detector(paths, batch=batch),
                PLAIN: lambda: run(number, False),
                DRAWN: lambda: run(number, True),
            }
            return {name: partial(counted, name, work) for name, work in works.items()}

        timing = take_turns(map(contenders, range(rounds + 1)))
        on_progress("rounds", rounds + 1, rounds + 1)
    each = {name: len(inputs) / timing.median(name) for name in (BASELINE, PLAIN, DRAWN)}
    return RunBench(
        images=len(inputs),
        rounds=timing.rounds,
        batch=batch,
        detector=each[BASELINE],
        run=each[PLAIN],
        drawn=each[DRAWN],
        ratio=each[PLAIN] / each[BASELINE],
        drawn_ratio=each[DRAWN] / each[BASELINE],
        cpu_ratio=median(processor[BASELINE]) / median(processor[PLAIN]),
    )
