"""The pictures of a report, drawn from its numbers and written atomically."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from detheads.analytical.anchors import ANCHORS
from detheads.analytical.diagnosis import Coverage, PrecisionRecall, RidgeCurve, Separation
from detheads.foundation import atomic

CLASS_PANELS = 9
"""Classes that get a histogram at most: those with most object cells. The numbers of all are in the JSON."""

OBJECT, BACKGROUND = "tab:orange", "tab:blue"


def draw_separations(path: Path, separations: Sequence[Separation]) -> None:
    """A histogram a class: object cells and background cells by log-odds, each group as shares of itself."""
    drawn = sorted(separations, key=lambda each: -sum(each.objects))[:CLASS_PANELS]
    columns = min(3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(7.5 if columns == 1 else 4 * columns, 3.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, each in zip(panels, drawn, strict=False):
        for counts, colour, label in ((each.background, BACKGROUND, "background"), (each.objects, OBJECT, "object")):
            shares = [count / max(sum(counts), 1) for count in counts]
            axes.stairs(shares, each.edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(shares, each.edges, color=colour, label=f"{label} cells")
        auc = "undefined" if each.auc is None else f"{each.auc:.4f}"
        title = f"{each.name}: AUC {auc}\n{sum(each.objects):,} object, {sum(each.background):,} background cells"
        axes.set_title(title, fontsize=10, parse_math=False)  # a class name may hold dollar signs
        axes.set(xlabel="log-odds against background", ylabel="share of the group's cells")
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    _save(figure, path)


def draw_curves(path: Path, curves: Sequence[PrecisionRecall]) -> None:
    """Precision over recall, a line an IoU."""
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        if curve.precision is not None:
            axes.step(
                curve.recall,
                curve.precision,
                where="pre",
                label=f"IoU {curve.iou:g}: AP {curve.average_precision:.3f}",
            )
    axes.set(xlabel="recall", ylabel="precision (interpolated)", xlim=(0, 1.01), ylim=(0, 1.03))
    axes.grid(alpha=0.3)
    if axes.lines:
        figure.legend(loc="outside upper center", ncols=len(curves))
    else:
        axes.text(0.5, 0.5, "no objects", ha="center", va="center")
    _save(figure, path)


def draw_coverage(path: Path, coverage: Coverage) -> None:
    """Objects by IoU with their best anchor shape, and by anchor."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    overlap_axes, anchor_axes = figure.subplots(1, 2)
    overlap_axes.stairs(coverage.counts, coverage.edges, fill=True, color=BACKGROUND, alpha=0.6)
    reached = []
    for iou, share in ((0.5, coverage.at_half), (0.7, coverage.at_seven_tenths)):
        if share is not None:
            overlap_axes.axvline(iou, color="black", linestyle="--", linewidth=1)
            reached.append(f"{share:.1%} reach {iou:g}")
    overlap_axes.set(xlabel="IoU of an object's shape with the best anchor's", ylabel="objects", xlim=(0, 1))
    overlap_axes.set_title(", ".join(reached) or "no objects", fontsize=10)
    places = range(len(coverage.anchors))
    bars = anchor_axes.barh(places, [use.objects for use in coverage.anchors], color=BACKGROUND, alpha=0.6)
    anchor_axes.bar_label(bars, padding=2, fontsize=8)
    anchor_axes.set_yticks(places, [f"{use.width:.0f} x {use.height:.0f}" for use in coverage.anchors], fontsize=8)
    anchor_axes.invert_yaxis()
    anchor_axes.margins(x=0.1)
    anchor_axes.set(xlabel="objects that take the anchor", ylabel="width x height of the anchor, input pixels")
    for axes in (overlap_axes, anchor_axes):
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3, axis="both" if axes is overlap_axes else "x")
    _save(figure, path)


def draw_ridges(path: Path, curves: Sequence[RidgeCurve], alphas: Sequence[float], fitted: float) -> None:
    """R^2 and degrees of freedom over the penalty, a line a level; ``fitted`` is the penalty of the fit."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    r2_axes, freedom_axes = figure.subplots(1, 2)
    for curve in curves:
        line = {
            "color": f"C{curve.level}",
            "marker": "o",
            "markersize": 3,
            "linestyle": "-" if curve.cells >= ANCHORS else ":",  # dotted: the fit did not use this level's own rows
            "label": f"level {curve.level} (stride {curve.stride}): {curve.cells:,} cells",
        }
        r2_axes.plot(alphas, [math.nan if value is None else value for value in curve.r2], **line)
        freedom_axes.plot(alphas, curve.degrees_of_freedom, **line)
    r2_axes.set(xlabel="ridge penalty alpha", ylabel="R² on the training rows")
    freedom_axes.set(xlabel="ridge penalty alpha", ylabel="degrees of freedom")
    for axes in (r2_axes, freedom_axes):
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
        if fitted > 0:
            axes.axvline(fitted, color="black", linestyle="--", linewidth=1, label=f"the fit: {fitted:g}")
    # One legend for both, beside them: the lines of either panel run through all its corners.
    figure.legend(*freedom_axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with atomic.replacing(path) as partial:
        figure.savefig(partial, dpi=110)
