"""What a benchmark found: one row for each contender and batch size."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

PERCENTILES: Final = (50, 90, 95, 99)


@dataclass(frozen=True)
class Accuracy:
    """What the bundle's proof says of the artefact that was measured. AP over IoU 0.50:0.95, in 0..1.

    Attributes:
        head: the head that it was measured for.
        passed: the proof holds.
        map: of the artefact.
        map_live: of the PyTorch model that it was made from.
        runtime: what ran the artefact in the proof.
        same_runtime: that is what was timed, versions aside.
    """

    head: str
    passed: bool
    map: float | None
    map_live: float | None
    dataset: str
    split: str
    images: int
    runtime: str
    same_runtime: bool


@dataclass(frozen=True)
class Row:
    """One contender at one batch size. Times in milliseconds.

    Attributes:
        contender: its name in this benchmark.
        threads: CPU threads that were asked for; None: the library's own choice.
        runs: batches that were timed, after the warm-up.
        latency: from decoded pictures to detections of a batch: ``p50``, ``p90``, ``p95``, ``p99`` (each is a run
            that happened: the smallest that so many percent of the runs do not exceed), ``mean``, ``min``, ``max``.
        images_per_second: batch over the mean latency; decoding not included.
        parts: median milliseconds of one image in ``decode``, ``letterbox``, ``inference`` and ``post``.
        overhead: letterbox and post over inference: what is around the model call as a share of it.
        bare_ratio: throughput from decoded pictures to detections over that of the library's bare call on tensors
            that lie ready, in turns with it.
        relative: throughput over that of the first contender at this batch size, in turns with it.
    """

    contender: str
    bundle: str
    backend: str
    runtime: str
    file: str
    threads: int | None
    batch: int
    runs: int
    latency: dict[str, float]
    images_per_second: float
    parts: dict[str, float]
    overhead: float
    bare_ratio: float
    relative: float


@dataclass(frozen=True)
class BenchResult:
    """A benchmark.

    Attributes:
        device, cores: the machine, and how many cores this process may use.
        pictures: how many pictures took turns, and where they come from.
        warm_up, pause: rounds that were left out, and seconds of rest before each run.
        accuracy: by contender, one entry for each proven head; none where nothing was proven.
        clocks: of the processors and the GPU (see :meth:`ClockWatch.to_dict`).
        remarks: sentences on what makes the figures doubtful.
    """

    device: str
    cores: int
    date: str
    pictures: int
    source: str
    warm_up: int
    pause: float
    rows: list[Row]
    accuracy: dict[str, list[Accuracy]]
    clocks: dict[str, Any]
    remarks: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Seconds -> milliseconds, by nearest rank."""
    ordered = sorted(1000 * value for value in seconds)
    ranks = {f"p{share}": ordered[math.ceil(share / 100 * len(ordered)) - 1] for share in PERCENTILES}
    return {**ranks, "mean": sum(ordered) / len(ordered), "min": ordered[0], "max": ordered[-1]}
