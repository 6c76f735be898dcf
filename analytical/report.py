"""A fitted detector on a validation cache, told in JSON, Markdown and pictures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from detheads import __version__
from detheads.analytical.anchors import ANCHORS
from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.diagnosis import (
    Coverage,
    PrecisionRecall,
    RidgeCurve,
    Separation,
    measure_coverage,
    measure_curves,
    measure_ridges,
    measure_separation,
)
from detheads.analytical.fit import FIT_NAME, STATISTICS_NAME
from detheads.analytical.plan import Progress
from detheads.analytical.plots import CLASS_PANELS, draw_coverage, draw_curves, draw_ridges, draw_separations
from detheads.analytical.solve import Solution
from detheads.analytical.statistics import load_statistics
from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import NAMES, evaluate
from detheads.evaluation.predict import evaluate_cache, predict_cache
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.headkit.cost import parameters_of
from detheads.training.checkpoint import build_head, load_checkpoint, matching_cache

REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"
HISTOGRAM_PLOT, CURVES_PLOT = "score_histogram.png", "precision_recall.png"
COVERAGE_PLOT, RIDGE_PLOT = "anchor_coverage.png", "lambda_curve.png"

ALPHAS = tuple(10.0**power for power in range(-2, 7))

_FIT_KEYS = ("options", "strengths", "backbone", "images", "rows", "seconds", "remarks")


@dataclass(frozen=True)
class Report:
    """Everything that was measured.

    Attributes:
        model: the folder of the fitted detector.
        dataset, split, images: what it was evaluated on.
        statistics: COCO statistics on the validation cache by name, and ``per_class`` (-1 where undefined).
        training: the same on the training cache, where one was given.
        fit: from the fit's own record: ``options``, ``strengths``, ``backbone``, ``images``, ``rows``, ``seconds``,
            ``remarks``.
        separations: one a class, measured on ``background_share`` of the background cells.
        alphas: penalties of ``ridges``, ascending, the fit's own among them.
        ridges: empty where the model folder holds no statistics.
        ridge_remarks: penalties that had to be raised.
    """

    model: str
    checkpoint_sha256: str
    dataset: str
    split: str
    images: int
    parameters: int
    statistics: Mapping[str, Any]
    training: Mapping[str, Any] | None
    fit: dict[str, Any]
    separations: Sequence[Separation]
    background_share: float
    curves: Sequence[PrecisionRecall]
    coverage: Coverage
    alphas: Sequence[float]
    ridges: Sequence[RidgeCurve]
    ridge_remarks: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values; None where nothing defines a value."""
        return {
            "schema_version": 1,
            "detheads_version": __version__,
            "model": self.model,
            "checkpoint_sha256": self.checkpoint_sha256,
            "dataset": {"name": self.dataset, "split": self.split, "images": self.images},
            "parameters": self.parameters,
            "statistics": _without_minus_one(self.statistics),
            "training_statistics": self.training and _without_minus_one(self.training),
            "fit": self.fit,
            "separation": {
                "background_share": self.background_share,
                "classes": [asdict(each) for each in self.separations],
            },
            "precision_recall": [
                asdict(curve) | {"average_precision": curve.average_precision} for curve in self.curves
            ],
            "anchor_coverage": asdict(self.coverage),
            "lambda_curve": {
                "rows": "training",
                "alphas": list(self.alphas),
                "levels": [asdict(curve) for curve in self.ridges],
                "remarks": list(self.ridge_remarks),
            }
            if self.ridges
            else None,
        }

    def to_markdown(self) -> str:
        """The report for a reader; its pictures lie beside it."""
        lines = [*self._statistics(), *self._classes(), *self._fit(), *self._pictures()]
        return "\n".join([f"# Closed-form detector {Path(self.model).name}", "", *lines])

    def _statistics(self) -> Iterator[str]:
        yield f"Measured on {self.images} images of {self.dataset} {self.split}, detheads {__version__}."
        yield ""
        columns = [self.statistics] if self.training is None else [self.statistics, self.training]
        yield "| statistic | validation |" + (" training |" if self.training else "")
        yield "|---|---|" + ("---|" if self.training else "")
        for name in NAMES:
            yield f"| {name} | " + " | ".join(_number(column[name]) for column in columns) + " |"
        yield ""
        yield "AP over IoU 0.50:0.95 by pycocotools, in 0..1; - where no object defines a value."
        if self.training is not None and min(self.training["AP"], self.statistics["AP"]) >= 0:
            gap = self.training["AP"] - self.statistics["AP"]
            yield f"AP on the training images is {gap:+.4f} away; far above, the fit has learnt its images by heart."
        yield ""

    def _classes(self) -> Iterator[str]:
        if len(self.separations) < 2:
            return
        yield "| class | AP | AP50 | AUC of the first stage | object cells |"
        yield "|---|---|---|---|---|"
        for each in self.separations:
            # None for a name that several ids share: those have other keys.
            found = self.statistics["per_class"].get(each.name) or {}
            scores = " | ".join(_number(found.get(name)) for name in ("AP", "AP50"))
            yield f"| {_cell(each.name)} | {scores} | {_number(each.auc)} | {sum(each.objects)} |"
        yield ""

    def _fit(self) -> Iterator[str]:
        seconds = self.fit["seconds"]
        spent = ", ".join(f"{name} {value:g}" for name, value in seconds.items())
        yield "## The fit"
        yield ""
        yield "| | |"
        yield "|---|---|"
        yield f"| parameters | {self.parameters:,} |"
        yield f"| backbone | {self.fit['backbone']} |"
        yield f"| images, rows | {self.fit['images']:,}, {self.fit['rows']:,} |"
        yield f"| seconds | {sum(seconds.values()):.1f} ({spent}) |"
        for name in ("options", "strengths"):
            yield f"| {name} | " + ", ".join(f"{key} {value}" for key, value in self.fit[name].items()) + " |"
        yield ""
        for remark in (*self.fit["remarks"], *self.ridge_remarks):
            yield f"- {remark}"
        if self.fit["remarks"] or self.ridge_remarks:
            yield ""

    def _pictures(self) -> Iterator[str]:
        pictures = [
            ("Scores of the first stage", HISTOGRAM_PLOT, read_separations(self.separations, self.background_share)),
            ("Precision and recall", CURVES_PLOT, read_curves(self.curves)),
            ("Anchors", COVERAGE_PLOT, read_coverage(self.coverage)),
        ]
        if self.ridges:
            fitted = float(self.fit["strengths"]["alpha"])
            pictures.append(("Ridge penalty", RIDGE_PLOT, read_ridges(self.ridges, self.alphas, fitted)))
        for title, name, sentence in pictures:
            yield from (f"## {title}", "", f"![{title}]({name})", "", sentence, "")
        if not self.ridges:
            yield f"The curve over the ridge penalty needs {STATISTICS_NAME} in the model folder, which is not there."
            yield ""


def write_report(
    model: Path,
    cache: FeatureCache,
    output: Path,
    *,
    train: FeatureCache | None = None,
    alphas: Sequence[float] = ALPHAS,
    on_progress: Progress = lambda step, done, total: None,
) -> Report:
    """Measure a fitted detector and write ``report.json``, ``report.md`` and their pictures into ``output``.

    Args:
        model: folder that ``detheads analytical fit`` wrote.
        cache: validation cache, restricted to the model's classes.
        train: training cache, restricted likewise; where given, AP on it stands beside that on ``cache``.
        alphas: positive penalties of the lambda curve, which is drawn from the training rows' statistics (left out
            where the model folder does not hold them); the fit's own is added.

    Raises:
        UserError: when the folder holds no finished closed-form fit, a cache is of another backbone, size or classes,
            a file is damaged, or a penalty is not positive.
    """
    if not all(0 < alpha < math.inf for alpha in alphas):
        raise UserError(f"the penalties of the lambda curve are positive numbers, not {list(alphas)}.")
    checkpoint = load_checkpoint(model)
    head = build_head(checkpoint)
    if not isinstance(head, ClosedForm):
        raise UserError(f"{model} holds a head {checkpoint.head_name!r}; the report is for a closed-form fit.")
    cache = matching_cache(checkpoint, cache)
    fit = _read_fit(model)

    results = predict_cache(head, cache, on_progress=lambda done, total: on_progress("evaluation", done, total))
    training = None
    if train is not None:
        training = evaluate_cache(
            head,
            matching_cache(checkpoint, train),
            on_progress=lambda done, total: on_progress("training images", done, total),
        ).to_dict()
    truth = cache.dataset.coco_json()
    separations, background_share = measure_separation(head, cache, on_progress)
    fitted = float(fit["strengths"]["alpha"])
    swept = sorted({*map(float, alphas), *([fitted] if fitted > 0 else [])})
    ridges: list[RidgeCurve] = []
    noted = Solution()
    if (model / STATISTICS_NAME).is_file():
        statistics = load_statistics(model / STATISTICS_NAME)
        ridges = noted.noting("lambda curve", measure_ridges, statistics, head, swept)
    report = Report(
        model=str(model),
        checkpoint_sha256=checkpoint.checkpoint_sha256,
        dataset=cache.dataset.name,
        split=cache.dataset.split,
        images=len(cache),
        parameters=parameters_of(head),
        statistics=evaluate(truth, results).to_dict(),
        training=training,
        fit=fit,
        separations=separations,
        background_share=background_share,
        curves=measure_curves(truth, results),
        coverage=measure_coverage(head.anchors, torch.cat([cache.targets(i).boxes for i in range(len(cache))])),
        alphas=swept,
        ridges=ridges,
        ridge_remarks=noted.remarks,
    )
    _write(report, output)
    return report


def _write(report: Report, output: Path) -> None:
    """The pictures first, so that a report never lacks one."""
    draw_separations(output / HISTOGRAM_PLOT, report.separations)
    draw_curves(output / CURVES_PLOT, report.curves)
    draw_coverage(output / COVERAGE_PLOT, report.coverage)
    if report.ridges:
        draw_ridges(output / RIDGE_PLOT, report.ridges, report.alphas, float(report.fit["strengths"]["alpha"]))
    else:
        (output / RIDGE_PLOT).unlink(missing_ok=True)  # of an earlier report
    atomic.write_json(output / REPORT_JSON, report.to_dict())
    atomic.write_text(output / REPORT_MARKDOWN, report.to_markdown())


def _read_fit(model: Path) -> dict[str, Any]:
    found = atomic.read_json(model / FIT_NAME)
    missing = [key for key in _FIT_KEYS if key not in found]
    if missing:
        raise UserError(f"{model / FIT_NAME} has no {missing[0]!r}: the fit was not finished; run it again.")
    return {key: found[key] for key in _FIT_KEYS}


def read_separations(separations: Sequence[Separation], background_share: float) -> str:
    """What the histograms say, in a sentence or two."""
    known = [(each.auc, each.above_median, each) for each in separations if each.auc is not None]
    if not known:
        return "No cell stands for an object, so there is nothing to tell from background."
    worst, above, lowest = min(known, key=lambda entry: entry[0])
    best, _, highest = max(known, key=lambda entry: entry[0])
    name = _cell(lowest.name)
    if len(separations) == 1:
        text = f"A cell of {name} has higher log-odds than a background cell in {worst:.2%} of pairs (AUC {worst:.4f})"
    else:
        mean = sum(auc for auc, _, _ in known) / len(known)
        text = (
            f"The AUC averages {mean:.4f} over the {len(known)} classes with object cells, from {worst:.4f} ({name}) "
            f"to {best:.4f} ({_cell(highest.name)})"
        )
    text += (
        f"; {above:.2%} of the background cells lie above the median cell of {name} and compete with its better half."
    )
    if len(separations) > CLASS_PANELS:
        text += f" Drawn are the {CLASS_PANELS} classes with most object cells; {REPORT_JSON} has all."
    if background_share < 1:
        text += f" Of the background cells {background_share:.2%} were drawn at random."
    return text


def read_curves(curves: Sequence[PrecisionRecall]) -> str:
    """What the precision-recall curves say, in a sentence."""
    loose, strict = curves[0], curves[-1]
    if loose.average_precision is None or strict.average_precision is None:
        return "The validation images hold no object, so there is no curve."
    return (
        f"At IoU {loose.iou:g} recall ends at {loose.highest_recall:.3f} (AP {loose.average_precision:.4f}), at IoU "
        f"{strict.iou:g} at {strict.highest_recall:.3f} (AP {strict.average_precision:.4f}): recall missing from the "
        f"first is objects not found, and the {loose.average_precision - strict.average_precision:.4f} of AP between "
        "the curves is objects found with boxes that are not exact."
    )


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


def _without_minus_one(value: Any) -> Any:
    """JSON values with None where pycocotools writes -1 for undefined."""
    if isinstance(value, dict):
        return {key: _without_minus_one(item) for key, item in value.items()}
    return None if value == -1 else value


def _number(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{value:.4f}"


def _cell(name: str) -> str:
    """A class name inside a Markdown table."""
    return name.replace("|", "\\|")
