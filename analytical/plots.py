"""The plots that only a closed-form fit has, and what each says in a sentence."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from detheads.analytical.anchors import ANCHORS
from detheads.analytical.diagnosis import Coverage, RidgeCurve, Separation

CLASS_PANELS = 9
"""Classes that get a histogram at most: those with most object cells. The numbers of all are in the JSON."""

OBJECT, BACKGROUND = "tab:orange", "tab:blue"


def separations_figure(separations: Sequence[Separation]) -> Figure:
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
    return figure


def coverage_figure(coverage: Coverage) -> Figure:
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
    return figure


def ridges_figure(curves: Sequence[RidgeCurve], alphas: Sequence[float], fitted: float) -> Figure:
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
    return figure


def read_separations(separations: Sequence[Separation], background_share: float) -> str:
    """What the histograms say, in a sentence or two."""
    known = [(each.auc, each.above_median, each) for each in separations if each.auc is not None]
    if not known:
        return "No cell stands for an object, so there is nothing to tell from background."
    worst, above, lowest = min(known, key=lambda entry: entry[0])
    best, _, highest = max(known, key=lambda entry: entry[0])
    name = lowest.name
    if len(separations) == 1:
        text = f"A cell of {name} has higher log-odds than a background cell in {worst:.2%} of pairs (AUC {worst:.4f})"
    else:
        mean = sum(auc for auc, _, _ in known) / len(known)
        text = (
            f"The AUC averages {mean:.4f} over the {len(known)} classes with object cells, from {worst:.4f} ({name}) "
            f"to {best:.4f} ({highest.name})"
        )
    text += (
        f"; {above:.2%} of the background cells lie above the median cell of {name} and compete with its better half."
    )
    if len(separations) > CLASS_PANELS:
        text += f" Drawn are the {CLASS_PANELS} classes with most object cells; report.json has all."
    if background_share < 1:
        text += f" Of the background cells {background_share:.2%} were drawn at random."
    return text


def read_coverage(coverage: Coverage) -> str:
    """What the anchor plot says, in a sentence."""
    if coverage.at_half is None or coverage.at_seven_tenths is None:
        return "The validation images hold no object for the anchors to fit."
    most = max(coverage.anchors, key=lambda use: use.objects)
    unused = sum(use.objects == 0 for use in coverage.anchors)
    return (
        f"The best anchor's shape reaches IoU 0.5 for {coverage.at_half:.1%} and 0.7 for "
        f"{coverage.at_seven_tenths:.1%} of the {coverage.objects:,} validation objects (the box regression has to do "
        f"the rest); {most.width:.0f} x {most.height:.0f} px takes most of them, {most.objects:,}, and "
        f"{unused} of the {len(coverage.anchors)} anchors are no object's best."
    )


def read_ridges(curves: Sequence[RidgeCurve], alphas: Sequence[float], fitted: float) -> str:
    """What the lambda curve says, in a sentence or two: of the level with most cells."""
    main = max(curves, key=lambda curve: curve.cells)
    text = f"These are training rows, on which the smallest penalty always looks best. On level {main.level}"
    text += f" ({main.cells:,} cells) R² "
    if main.r2[0] is None:
        return text + "is undefined: every cell takes the same anchor."
    text += f"falls from {main.r2[0]:.3f} at alpha {alphas[0]:g} to {main.r2[-1]:.3f} at {alphas[-1]:g}"
    if fitted in alphas:
        at = alphas.index(fitted)
        text += (
            f"; at the fit's {fitted:g} it is {main.r2[at]:.3f} with {main.degrees_of_freedom[at]:.0f} degrees of "
            f"freedom, {main.degrees_of_freedom[at] / main.cells:.2f} a cell (near 1 the classifier learns its rows "
            "by heart)"
        )
    if any(curve.cells < ANCHORS for curve in curves):
        text += f". Dotted levels have fewer than {ANCHORS} cells: the fit solved them from all levels together"
    return text + "."
