"""Speed of the closed form against the bare matrix product and scikit-learn on all rows, and its peak memory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from detheads.analytical.estimators import lda_from_moments
from detheads.analytical.moments import Moments
from detheads.bench.memory import peak_memory_mb
from detheads.foundation.progress import Progress
from detheads.foundation.timing import take_turns

CHUNK_ROWS = 4 * 48 * 48
"""Rows of one call: the patches of four images of 768 px at stride 16."""

NEGATIVES_PER_POSITIVE = 600
REFERENCE_ROWS = 51_000_000
"""The reference detector was fitted to 51 million patches."""


@dataclass(frozen=True)
class PassBench:
    """Rows a second of the streamed pass and of the bare float32 product ``X'X`` of the same chunks.

    ``ratio`` is ``streamed / product``; it may exceed 1, because the pass computes one triangle of the product and the
    baseline (torch) all of it. ``estimated_minutes`` is ``estimated_rows`` over ``streamed``: an estimate of
    the pass alone, without reading the rows from disk.
    """

    rows: int
    chunk: int
    streamed: float
    product: float
    ratio: float
    estimated_rows: int
    estimated_minutes: float


@dataclass(frozen=True)
class FitBench:
    """Median seconds of a fit (pass and solve) and of scikit-learn's on the same float32 rows in memory.

    ``svd_ratio`` is ``svd / streamed`` (scikit-learn's default solver), ``lsqr_ratio`` is ``lsqr / streamed``.
    """

    rows: int
    streamed: float
    svd: float
    lsqr: float
    svd_ratio: float
    lsqr_ratio: float


@dataclass(frozen=True)
class MemoryBench:
    """Peak memory of a fresh process that generates so many rows chunk by chunk and fits to them, and its seconds."""

    rows: int
    peak_memory_mb: float
    seconds: float


@dataclass(frozen=True)
class AnalyticalBench:
    """All measurements of one run; ``memory`` is empty when it was not asked for."""

    dimensions: int
    threads: int
    streaming: PassBench
    fit: FitBench
    memory: list[MemoryBench]


def bench_analytical(
    rows: int, dimensions: int, fit_rows: int, repeats: int, memory_rows: Sequence[int], on_progress: Progress
) -> AnalyticalBench:
    """Measure memory at each of ``memory_rows``, then the pass over ``rows``, then ``repeats`` fits to ``fit_rows``."""
    total = len(memory_rows) + 2
    memory = []
    for done, count in enumerate(memory_rows):
        on_progress("measuring", done, total)
        memory.append(_bench_memory(count, dimensions))
    on_progress("measuring", total - 2, total)
    streaming = _bench_pass(rows, dimensions)
    on_progress("measuring", total - 1, total)
    fit = _bench_fit(fit_rows, dimensions, repeats)
    on_progress("measuring", total, total)
    return AnalyticalBench(dimensions, torch.get_num_threads(), streaming, fit, memory)


def fit_synthetic(rows: int, dimensions: int) -> None:
    """Fit to generated rows in this process; print peak memory and seconds as JSON on standard output."""
    started = time.perf_counter()
    moments: Moments | None = None
    for features, labels in _generated(rows, dimensions):
        moments = moments or Moments(features.mean(0), classes=2)
        moments.add(features, labels=labels)
    assert moments is not None
    lda_from_moments(moments)
    print(json.dumps([peak_memory_mb(), time.perf_counter() - started]))


def _generated(rows: int, dimensions: int, chunk: int = CHUNK_ROWS) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of float32 rows away from zero and their labels; every 600th is positive."""
    generator = torch.Generator().manual_seed(0)
    centre = 3 * torch.randn(dimensions, generator=generator)
    for start in range(0, rows, chunk):
        features = torch.randn(min(chunk, rows - start), dimensions, generator=generator).add_(centre)
        labels = torch.zeros(len(features), dtype=torch.int64)
        labels[::NEGATIVES_PER_POSITIVE] = 1
        yield features, labels


def _bench_pass(rows: int, dimensions: int) -> PassBench:
    """Turns of the bare product of a chunk and the accumulation of the same chunk."""
    chunk = min(CHUNK_ROWS, rows)
    held = list(_generated(4 * chunk, dimensions, chunk))  # more than the processor's cache holds
    moments = Moments(held[0][0].mean(0), classes=2)
    timing = take_turns(
        {"product": partial(torch.matmul, x.T, x), "streamed": partial(moments.add, x, labels=y)}
        for x, y in islice(cycle(held), 1 + max(3, rows // chunk))
    )
    product, streamed = (chunk / timing.median(name) for name in ("product", "streamed"))
    minutes = REFERENCE_ROWS / streamed / 60
    return PassBench(timing.rounds * chunk, chunk, streamed, product, streamed / product, REFERENCE_ROWS, minutes)


def _bench_fit(rows: int, dimensions: int, repeats: int) -> FitBench:
    """Turns of scikit-learn's default solver, ours, and scikit-learn's ``lsqr`` on the same rows."""
    chunks = list(_generated(rows, dimensions))
    features, labels = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    del chunks

    def ours() -> None:
        moments = Moments(features[:CHUNK_ROWS].mean(0), classes=2)
        for x, y in zip(features.split(CHUNK_ROWS), labels.split(CHUNK_ROWS), strict=True):
            moments.add(x, labels=y)
        lda_from_moments(moments)

    full, targets = features.numpy(), labels.numpy()
    contenders: dict[str, Callable[[], object]] = {
        "svd": lambda: LinearDiscriminantAnalysis().fit(full, targets),
        "streamed": ours,
        "lsqr": lambda: LinearDiscriminantAnalysis(solver="lsqr").fit(full, targets),
    }
    timing = take_turns([contenders] * (1 + repeats))
    svd, streamed, lsqr = (timing.median(name) for name in contenders)
    return FitBench(rows, streamed, svd, lsqr, svd / streamed, lsqr / streamed)


def _bench_memory(rows: int, dimensions: int) -> MemoryBench:
    code = f"from detheads.bench.closed_form import fit_synthetic; fit_synthetic({rows}, {dimensions})"
    finished = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    peak, seconds = json.loads(finished.stdout)
    return MemoryBench(rows, peak, seconds)
