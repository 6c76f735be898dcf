"""The plots that all reports share, and figures as PNG and as SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from detheads.evaluation.scores import ScoreCurve
from detheads.report.curves import PrecisionRecall

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110


def png(figure: "Figure") -> bytes:
    """A figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def svg(figure: "Figure") -> bytes:
    """A figure as the bytes of an SVG file, the same for the same figure; its texts stay texts."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "detheads"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def curves_figure(curves: Sequence[PrecisionRecall]) -> "Figure":
    """Precision over recall, a line an IoU."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        if curve.precision is not None:
            label = f"IoU {curve.iou:g}: AP {curve.average_precision:.3f}"
            axes.step(curve.recall, curve.precision, where="pre", label=label)
    axes.set(xlabel="recall", ylabel="precision (interpolated)", xlim=(0, 1.01), ylim=(0, 1.03))
    axes.grid(alpha=0.3)
    if axes.lines:
        figure.legend(loc="outside upper center", ncols=len(curves))
    else:
        axes.text(0.5, 0.5, "no objects", ha="center", va="center")
    return figure


def scores_figure(curve: ScoreCurve) -> "Figure":
    """Precision, recall and F1 of the detections from each score on, and the best F1 as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = figure.subplots()
    points = [curve.at(score) for score in np.linspace(0, 1, 201).tolist()]
    for name in ("precision", "recall", "f1"):
        values = [np.nan if (value := getattr(point, name)) is None else value for point in points]
        axes.plot([point.score for point in points], values, label="F1" if name == "f1" else name)
    if curve.best is not None:
        label = f"best F1 {curve.best.f1:.3f} from {curve.best.score:.3f} on"
        axes.axvline(curve.best.score, color="0.5", linestyle="--", linewidth=1, label=label)
    axes.set(xlabel="score from which detections are kept", ylabel="at IoU 0.5", xlim=(0, 1), ylim=(0, 1.03))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def costs_figure(costs: Mapping[str, float | None], colors: Sequence[tuple[float, float, float]]) -> "Figure":
    """A bar for each kind of error: the AP at IoU 0.5 that its repair would gain.

    Args:
        costs: by kind; None without objects.
        colors: RGB in 0..1 of each.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    known = [cost or 0.0 for cost in costs.values()]
    bars = axes.barh(range(len(costs)), known, color=colors)
    axes.bar_label(bars, ["–" if cost is None else f"{cost:.3f}" for cost in costs.values()], padding=3, fontsize=9)  # noqa: RUF001
    axes.set_yticks(range(len(costs)), list(costs))
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3, axis="x")
    axes.set(xlabel="AP at IoU 0.5 gained if repaired", xlim=(0, max(0.05, 1.15 * max(known))))
    return figure
