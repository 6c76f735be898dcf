"""The plots of a proof's page, as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

from detheads.export.criteria import Criterion
from detheads.export.report import VerificationReport
from detheads.foundation.text import visible
from detheads.report.curves import PrecisionRecall
from detheads.report.figures import svg
from detheads.report.sections import Plot

DRAWN_CLASSES = 40
"""Classes of the plot at most, those that differ most."""
LIVE, ARTEFACT = "#1f5fa8", "#d1580b"


def curves_plots(curves: Mapping[str, Sequence[PrecisionRecall]]) -> list[Plot]:
    """Precision over recall of both sides, a plot for each IoU."""
    from matplotlib.figure import Figure

    plots = []
    for place, at in enumerate(next(iter(curves.values()))):
        figure = Figure(figsize=(5.2, 4), layout="constrained")
        axes = figure.subplots()
        for (name, sides), (color, style) in zip(curves.items(), ((LIVE, "-"), (ARTEFACT, "--")), strict=True):
            curve = sides[place]
            if curve.precision is not None:
                label = f"{visible(name)}: AP {curve.average_precision:.4f}"
                axes.step(curve.recall, curve.precision, style, where="pre", color=color, label=label)
        axes.set(
            title=f"IoU {at.iou:g}", xlabel="recall", ylabel="precision (interpolated)", xlim=(0, 1.01), ylim=(0, 1.03)
        )
        axes.grid(alpha=0.3)
        figure.legend(loc="outside upper center")
        plots.append(Plot(f"Precision over recall at IoU {at.iou:g}", f"precision_recall_{place}.svg", svg(figure)))
    return plots


def classes_plot(classes: Sequence[Criterion]) -> Plot:
    """AP of each class on both sides.

    Args:
        classes: those that differ most first.
    """
    from matplotlib.figure import Figure

    drawn = sorted(classes[:DRAWN_CLASSES], key=lambda each: each.live)
    rows = range(len(drawn))
    figure = Figure(figsize=(6.4, 1.2 + 0.26 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    axes.hlines(rows, [each.live for each in drawn], [each.artefact for each in drawn], color="0.6", linewidth=2)
    axes.plot([each.live for each in drawn], rows, "o", color=LIVE, label="PyTorch", markersize=7)
    axes.plot([each.artefact for each in drawn], rows, "o", color=ARTEFACT, label="artefact", markersize=4)
    # A dollar sign in a name begins no formula.
    axes.set_yticks(rows, [visible(each.name)[:40] for each in drawn], parse_math=False)
    axes.set(xlabel="AP", xlim=(-0.02, 1.02), ylim=(-0.7, len(drawn) - 0.3))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2)
    return Plot("AP by class", "classes.svg", svg(figure))


def conversion_plot(steps: Sequence[Mapping[str, Any]], report: VerificationReport) -> Plot:
    """AP of what was tried on the way to the precision, by the share of INT8 layers.

    Args:
        steps: in the order of their ``share``.
    """
    from matplotlib.figure import Figure

    live = report.live.require_ap()
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    shares = [100 * step["share"] for step in steps]
    axes.plot(shares, [step["ap"] for step in steps], color="0.6", linewidth=1)
    for passed, color, label in ((True, LIVE, "passes"), (False, ARTEFACT, "refused")):
        chosen = [(share, step["ap"]) for share, step in zip(shares, steps, strict=True) if step["passed"] is passed]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), "o", color=color, label=label)
    axes.axhline(live, color="0.3", linewidth=1, label="PyTorch")
    axes.axhline(live - report.limits.drops["AP"], color="0.3", linewidth=1, linestyle=":", label="lowest AP allowed")
    axes.set(xlabel="layers in INT8, %", ylabel="AP")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2)
    return Plot("AP against the share of INT8 layers", "int8.svg", svg(figure))
