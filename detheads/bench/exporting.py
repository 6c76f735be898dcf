"""What an export costs without its proof: seconds by step, from a checkpoint to a bundle, and peak memory."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from detheads.bench.memory import peak_memory_mb
from detheads.export.pipeline import export_run
from detheads.export.source import Which
from detheads.foundation.progress import Progress, silent


@dataclass(frozen=True)
class ExportBench:
    """An export of a run, whose bundle was thrown away.

    Attributes:
        seconds: of the whole, without the imports before it.
        steps: seconds of each step, under the name that the export shows while it runs.
        peak_memory_mb: of the process, in MB (10^6 bytes).
        bytes: of all files of the bundle.
    """

    seconds: float
    steps: Mapping[str, float]
    peak_memory_mb: float
    bytes: int


def bench_export(
    run: Path,
    *,
    which: Which = "best",
    weights: Path | None = None,
    tensorrt: bool = False,
    on_progress: Progress = silent,
) -> ExportBench:
    """Export a run without a proof.

    Raises:
        UserError: as :func:`detheads.export.pipeline.export_run`.
    """
    begun: list[tuple[str, float]] = []

    def listen(title: str, done: int, total: int) -> None:
        if not begun or begun[-1][0] != title:
            begun.append((title, time.perf_counter()))
        on_progress(title, done, total)

    with TemporaryDirectory() as folder:
        bundle = Path(folder) / "bench.detheads"
        result = export_run(
            run, bundle, proof=None, which=which, weights=weights, tensorrt=tensorrt, on_progress=listen
        )
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    ends = [moment for _, moment in begun[1:]] + [time.perf_counter()]
    steps = {title: end - start for (title, start), end in zip(begun, ends, strict=True)}
    return ExportBench(result.seconds, steps, peak_memory_mb(), size)
