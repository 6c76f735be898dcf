"""The plots of an arena's report: AP against parameters, and the training curves of all heads."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detheads.arena.leaderboard import Entry
from detheads.arena.records import run_folder
from detheads.report.figures import DPI
from detheads.training.log import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FRONT, OTHERS, LOSS = "#c2410c", "tab:blue", "tab:purple"
MAX_COLUMNS = 6
"""Panels side by side."""


def pareto_figure(entries: Sequence[Entry]) -> "Figure":
    """AP against parameters with every head named, and the Pareto front as a line; failed heads are left out."""
    from matplotlib.figure import Figure

    placed = [
        (entry.parameters, entry.AP, entry)
        for entry in entries
        if entry.status == "done" and entry.AP is not None and entry.parameters
    ]
    shown = sorted(placed, key=lambda point: point[:2])
    figure = Figure(figsize=(9, 5.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="parameters of the head", ylabel="AP on the validation images")
    axes.grid(alpha=0.3, which="both")
    if not shown:
        axes.text(0.5, 0.5, "no head finished", ha="center", va="center", transform=axes.transAxes)
    else:
        front = [(parameters, ap) for parameters, ap, entry in shown if entry.pareto]
        axes.plot(*zip(*front, strict=True), color=FRONT, linewidth=1.2, alpha=0.6, label="Pareto front")
        colors = [FRONT if entry.pareto else OTHERS for *_, entry in shown]
        axes.scatter([point[0] for point in shown], [point[1] for point in shown], c=colors, s=28, zorder=3)
        axes.set_xscale("log")
        axes.margins(0.12)
        _number_log_axis(axes.xaxis)
        axes.legend(loc="best")
        figure.draw_without_rendering()  # lays the axes out: the labels are placed in pixels
        figure.set_layout_engine("none")
        _name_points(axes, [(parameters, ap, entry.head, entry.pareto) for parameters, ap, entry in shown])
    return figure


def curves_figure(arena: Path, entries: Sequence[Entry]) -> "Figure":
    """Small multiples, a panel a head: AP by epoch among the other heads in grey, and the loss by step.

    A failed head shows how far it came; a head that logged nothing has no panel.
    """
    from matplotlib.figure import Figure

    logs = [(entry, log) for entry in entries if (log := read_log(run_folder(arena, entry.head)))]
    if not logs:
        figure = Figure(figsize=(6, 1), dpi=DPI)
        figure.text(0.5, 0.5, "no training logs", ha="center", va="center")
        return figure
    columns = min(MAX_COLUMNS, len(logs))
    rows = math.ceil(len(logs) / columns)
    figure = Figure(figsize=(max(6.0, 2.2 * columns), 2 * (1.55 * rows + 0.6)), dpi=DPI, layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False).flat
    upper.suptitle("AP by epoch (orange: on the Pareto front; grey: the other heads)", fontsize=11)
    lower.suptitle("loss by step (each head has a loss of its own)", fontsize=11)
    above = list(upper.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    below = list(lower.subplots(rows, columns, squeeze=False, sharex=True).flat)
    evaluations = [_series(log, "epoch", "AP") for _, log in logs]
    for place, (entry, log) in enumerate(logs):
        for number, (epochs, values) in enumerate(evaluations):
            if number != place:
                above[place].plot(epochs, values, color="0.8", linewidth=0.8)
        above[place].plot(*evaluations[place], color=FRONT if entry.pareto else OTHERS, marker="o", markersize=2.5)
        steps, losses = _series(log, "step", "loss")
        below[place].plot(steps, losses, color=LOSS, marker="o", markersize=1.5, linewidth=1)
        if losses and min(losses) > 0:
            below[place].set_yscale("log")
            _number_log_axis(below[place].yaxis)
        elif not losses:
            below[place].set_yticks([])
            below[place].text(0.5, 0.5, "none logged", ha="center", va="center", transform=below[place].transAxes)
        for axes in (above[place], below[place]):
            title = entry.head if entry.status == "done" else f"{entry.head} ({entry.status})"
            axes.set_title(title, fontsize=9, parse_math=False)
            axes.tick_params(labelsize=7, which="both")
            axes.grid(alpha=0.3)
            axes.tick_params(labelbottom=place + columns >= len(logs))  # the lowest panel of each column
    for axes in [*above[len(logs) :], *below[len(logs) :]]:
        axes.set_axis_off()
    return figure


def place_labels(
    points: NDArray[np.float64], sizes: NDArray[np.float64], width: float, height: float, gap: float = 6.0
) -> NDArray[np.float64]:
    """Where labels go so that they cover neither each other nor the points, as far as there is room.

    Each label in turn takes the cheapest place on rings around its point.

    Args:
        points: x, y in pixels, ``[N, 2]``.
        sizes: width and height of each label in pixels, ``[N, 2]``.
        width, height: of the area that the labels should stay in, from (0, 0).
        gap: pixels between a point and the nearest place for its label.

    Returns:
        Corners of the labels, x0, y0, x1, y1, ``[N, 4]``.
    """
    marks = np.concatenate((points - gap * 0.7, points + gap * 0.7), axis=1)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    placed = np.zeros((0, 4))
    for point, size in zip(points, sizes, strict=True):
        best, best_cost = np.zeros(4), math.inf
        for distance in gap * np.arange(1, 13):
            for angle in angles:
                direction = np.array([np.cos(angle), np.sin(angle)])
                # The label's nearest edge, not its middle, stands at the distance.
                middle = point + direction * distance + np.sign(np.round(direction, 6)) * size / 2
                box = np.concatenate((middle - size / 2, middle + size / 2))
                outside = size.prod() - _overlaps(box, np.array([[0, 0, width, height]])).sum()
                covered = 2 * _overlaps(box, placed).sum() + _overlaps(box, marks).sum() + 2 * outside
                cost = covered + distance / gap
                if cost < best_cost - 1e-9:
                    best, best_cost = box, cost
        placed = np.concatenate((placed, best[None]))
    return placed


def _overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas that ``box`` ``[4]`` shares with each of ``others`` ``[N, 4]``."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return np.clip(high - low, 0, None).prod(axis=1)


def _name_points(axes: "Axes", points: Sequence[tuple[float, float, str, bool]]) -> None:
    """Write the names beside their points, with a thin line where a name stands far off."""
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text

    halo = [withStroke(linewidth=2.5, foreground="white")]
    texts = [
        axes.annotate(
            name,
            (x, y),
            xytext=(0, 0),
            textcoords="axes pixels",
            fontsize=9,
            fontweight="bold" if front else "normal",
            ha="left",
            va="bottom",
            parse_math=False,
            path_effects=halo,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
            zorder=4,
        )
        for x, y, name, front in points
    ]
    area = axes.get_window_extent()
    anchors = axes.transData.transform([(x, y) for x, y, *_ in points]) - [area.x0, area.y0]
    extents = [Text.get_window_extent(text) for text in texts]  # an annotation's own extent includes its line
    sizes = np.array([(extent.width, extent.height) for extent in extents])
    for text, (x0, y0, _, _) in zip(texts, place_labels(anchors, sizes, area.width, area.height), strict=True):
        text.set_position((x0, y0))


def _number_log_axis(axis: "Axis") -> None:
    """Number a logarithmic axis with 0.5, 20 or 300k, about three to eight of them."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    span = high / low
    steps = (1.0,) if span > 1000 else (1.0, 2.0, 5.0) if span > 4 else (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=steps))
    large = EngFormatter(sep="")
    axis.set_major_formatter(FuncFormatter(lambda value, _: large(value) if value >= 1000 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _series(log: Sequence[dict[str, Any]], over: str, name: str) -> tuple[list[float], list[float]]:
    """The values of a log's lines that have one; NaN where it is undefined."""
    lines = [line for line in log if name in line and over in line]
    return [line[over] for line in lines], [math.nan if line[name] is None else line[name] for line in lines]
