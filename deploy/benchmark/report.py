"""A benchmark for a reader: its tables, its notes, and the page of both."""

from typing import Final

from detheads.deploy.benchmark.result import Accuracy, BenchResult, Row
from detheads.foundation.summary import UNDEFINED
from detheads.foundation.text import visible

SPEED: Final = ("contender", "batch", "p50 ms", "p90", "p95", "p99", "images/s", "to first", "AP")
PARTS: Final = ("contender", "batch", "decode ms", "letterbox", "inference", "post", "around", "to bare")


def tables(result: BenchResult) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Columns and rows: latency and throughput of a batch beside the AP, and where the time of one image goes."""
    speed = [
        (
            row.contender,
            str(row.batch),
            *(f"{row.latency[name]:.2f}" for name in ("p50", "p90", "p95", "p99")),
            f"{row.images_per_second:.1f}",
            f"{row.relative:.3f}",
            accuracy(result, row),
        )
        for row in result.rows
    ]
    parts = [
        (
            row.contender,
            str(row.batch),
            *(f"{row.parts[name]:.2f}" for name in ("decode", "letterbox", "inference", "post")),
            f"{row.overhead:.2%}",
            f"{row.bare_ratio:.3f}",
        )
        for row in result.rows
    ]
    return [(SPEED, speed), (PARTS, parts)]


def accuracy(result: BenchResult, row: Row) -> str:
    """The AP that was proven of a row's artefact; of each head where there are several."""
    entries = result.accuracy[row.contender]
    prefix = len(entries) > 1
    return ", ".join(f"{each.head} {_ap(each.map)}" if prefix else _ap(each.map) for each in entries) or "none"


def notes(result: BenchResult) -> list[str]:
    """What a reader must know beside the table."""
    cores = "1 core" if result.cores == 1 else f"{result.cores} cores"
    lines = [
        f"{result.device}, {cores} for this process, {result.date}",
        f"{result.pictures} pictures ({result.source}) in turns; the runs of a row are from decoded pictures to "
        f"detections, {result.warm_up} rounds of warm-up left out, {1000 * result.pause:g} ms of rest before each run",
    ]
    runtimes = {row.contender: (row.runtime, row.threads) for row in result.rows}
    for name, (runtime, threads) in runtimes.items():
        told = threads_told(threads)
        runs = ", ".join(f"{row.runs} runs of {row.batch}" for row in result.rows if row.contender == name)
        lines.append(f"{name}: {runtime}, {told}; {runs}")
        lines += [f"{name}: {_proof(each)}" for each in result.accuracy[name]]
    lines += [
        f"{what.replace('_', ' ')}: {span['min']:.0f} to {span['max']:.0f}, median {span['median']:.0f}"
        for what, span in result.clocks.items()
        if span
    ]
    if not any(result.clocks.values()):
        lines.append("this machine tells neither clocks nor temperatures")
    return lines + result.remarks


def markdown(result: BenchResult) -> str:
    """The page."""
    lines = ["# Benchmark"]
    for columns, rows in tables(result):
        lines.append("")
        for row in (columns, ("---",) * len(columns), *rows):
            lines.append("| " + " | ".join(visible(cell).replace("|", "\\|") for cell in row) + " |")
    return "\n".join([*lines, "", *(f"- {visible(note)}" for note in notes(result)), ""])


def _ap(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.4f}"


def _proof(entry: Accuracy) -> str:
    proof = "proven" if entry.passed else "in a proof that FAILED,"
    where = "" if entry.same_runtime else ", which is not what is timed here"
    return (
        f"AP {_ap(entry.map)} (PyTorch {_ap(entry.map_live)}) of head {entry.head} on {entry.images} images of "
        f"{entry.dataset} {entry.split}, {proof} with {entry.runtime}{where}"
    )


def threads_told(threads: int | None) -> str:
    """``"1 thread"`` and its like."""
    return "threads of the library's choice" if threads is None else f"{threads} thread{'s' if threads > 1 else ''}"
