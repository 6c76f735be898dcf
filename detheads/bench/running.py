"""What ``deploy run`` costs beside the detector itself, on the same pictures in the same process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
    """

    images: int
    rounds: int
    batch: int
    detector: float
    run: float
    drawn: float
    ratio: float
    drawn_ratio: float


def bench_run(
    detector: Detector, inputs: Sequence[InputImage], batch: int, rounds: int, on_progress: Progress
) -> RunBench:
    """Let ``Detector`` and ``run_images`` take turns on the same files.

    Args:
        batch: pictures in one run of the graph, of both.
        rounds: that are measured; one more comes before.
    """
    paths = [source.path for source in inputs]
    with TemporaryDirectory() as folder:

        def run(number: int, pictures: bool) -> None:
            run_images(detector, inputs, Path(folder) / f"{number}{pictures}", batch=batch, pictures=pictures)

        def contenders(number: int) -> dict[str, Contender]:
            on_progress("rounds", number, rounds + 1)
            return {
                BASELINE: lambda: detector(paths, batch=batch),
                PLAIN: lambda: run(number, False),
                DRAWN: lambda: run(number, True),
            }

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
    )
