"""A fitted detector on a validation cache: what every detector's report tells, and what only a closed form has."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detheads import __version__
from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.diagnosis import (
    Coverage,
    RidgeCurve,
    Separation,
    measure_coverage,
    measure_ridges,
    measure_separation,
)
from detheads.analytical.fit import FIT_NAME, STATISTICS_NAME
from detheads.analytical.plots import (
    coverage_figure,
    read_coverage,
    read_ridges,
    read_separations,
    ridges_figure,
    separations_figure,
)
from detheads.analytical.solve import Solution
from detheads.analytical.statistics import load_statistics
from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import Statistics, evaluate
from detheads.evaluation.predict import evaluate_cache, predict_cache
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress
from detheads.foundation.reading import read_json
from detheads.headkit.cost import parameters_of
from detheads.report.figures import png
from detheads.report.files import require_folder, write_document
from detheads.report.findings import draw_worst, findings, scores_section, verdict
from detheads.report.measured import Measured, measure
from detheads.report.pictures import Example
from detheads.report.run import data_facts
from detheads.report.sections import Column, Document, Plot, Section, Table
from detheads.training.checkpoint import build_head, load_checkpoint, matching_cache

HISTOGRAM_PLOT, COVERAGE_PLOT, RIDGE_PLOT = "score_histogram.png", "anchor_coverage.png", "lambda_curve.png"
PICTURES_HINT = (
    "A cache keeps no image files; for pictures of the worst images name the dataset folder: "
    "detheads analytical eval MODEL --cache CACHE --data FOLDER."
)

ALPHAS = tuple(10.0**power for power in range(-2, 7))

_FIT_KEYS = ("options", "strengths", "backbone", "images", "rows", "seconds", "remarks")


@dataclass(frozen=True)
class Report:
    """Everything that was measured.

    Attributes:
        model: the folder of the fitted detector.
        facts: what it was evaluated on, by title.
        measured: on the validation cache.
        training: COCO statistics on the training cache, where one was given.
        fit: from the fit's own record: ``options``, ``strengths``, ``backbone``, ``images``, ``rows``, ``seconds``,
            ``remarks``.
        separations: one a class, measured on ``background_share`` of the background cells.
        alphas: penalties of ``ridges``, ascending, the fit's own among them.
        ridges: empty where the model folder holds no statistics.
        ridge_remarks: penalties that had to be raised.
    """

    model: str
    checkpoint_sha256: str
    parameters: int
    facts: Mapping[str, str]
    measured: Measured
    training: Statistics | None
    fit: dict[str, Any]
    separations: Sequence[Separation]
    background_share: float
    coverage: Coverage
    alphas: Sequence[float]
    ridges: Sequence[RidgeCurve]
    ridge_remarks: Sequence[str]

    @property
    def statistics(self) -> dict[str, Any]:
        """COCO statistics on the validation cache by name, and ``per_class`` (None where undefined)."""
        return self.measured.statistics.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values; None where nothing defines a value."""
        dataset = self.measured.dataset
        return {
            "schema_version": 1,
            "detheads_version": __version__,
            "model": self.model,
            "checkpoint_sha256": self.checkpoint_sha256,
            "dataset": {"name": dataset.name, "split": dataset.split, "images": len(dataset.images)},
            "parameters": self.parameters,
            **self.measured.to_dict(),
            "training_statistics": self.training and self.training.to_dict(),
            "fit": self.fit,
            "separation": {
                "background_share": self.background_share,
                "classes": [asdict(each) for each in self.separations],
            },
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

    def document(self, examples: Sequence[Example], hint: str) -> Document:
        """The report for a reader: the sections of every detector, and those of a closed form.

        Args:
            examples: drawn images.
            hint: how to get them, where there are none.
        """
        training = {} if self.training is None else {"training": self.training}
        scores = scores_section({"validation": self.measured.statistics} | training)
        return Document(
            title=f"Closed-form detector {Path(self.model).name}",
            verdict=verdict(self.measured),
            facts={"Model": f"{self.model}, weights {self.checkpoint_sha256[:12]}", **self.facts},
            sections=[
                replace(scores, sentences=[*scores.sentences, *self._gap()]),
                *findings(self.measured, examples, hint),
                self._first_stage(),
                Section(
                    "Anchors",
                    plots=[Plot("Anchors", COVERAGE_PLOT, png(coverage_figure(self.coverage)))],
                    sentences=[read_coverage(self.coverage)],
                ),
                self._penalties(),
                self._fit(),
            ],
            answer=self.to_dict(),
        )

    def _gap(self) -> Iterator[str]:
        training = None if self.training is None else self.training.AP
        validation = self.measured.statistics.AP
        if training is not None and validation is not None:
            gap = training - validation
            yield f"AP on the training images is {gap:+.4f} away; far above, the fit has learnt its images by heart."

    def _first_stage(self) -> Section:
        columns = [
            Column("class", high_first=False),
            Column("AUC of the first stage", ".4f"),
            Column("object cells", ","),
        ]
        rows = [(each.name, each.auc, sum(each.objects)) for each in self.separations]
        return Section(
            "Scores of the first stage",
            [Table(columns, rows, sorted_by=0)] if len(rows) > 1 else [],
            [Plot("Scores of the first stage", HISTOGRAM_PLOT, png(separations_figure(self.separations)))],
            [read_separations(self.separations, self.background_share)],
        )

    def _penalties(self) -> Section:
        title = "Ridge penalty"
        if not self.ridges:
            missing = (
                f"The curve over the ridge penalty needs {STATISTICS_NAME} in the model folder, which is not there."
            )
            return Section(title, sentences=[missing])
        fitted = float(self.fit["strengths"]["alpha"])
        plot = Plot(title, RIDGE_PLOT, png(ridges_figure(self.ridges, self.alphas, fitted)))
        return Section(title, plots=[plot], sentences=[read_ridges(self.ridges, self.alphas, fitted)])

    def _fit(self) -> Section:
        seconds = self.fit["seconds"]
        spent = ", ".join(f"{name} {value:g}" for name, value in seconds.items())
        rows: list[tuple[str, str]] = [
            ("parameters", f"{self.parameters:,}"),
            ("backbone", str(self.fit["backbone"])),
            ("images, rows", f"{self.fit['images']:,}, {self.fit['rows']:,}"),
            ("seconds", f"{sum(seconds.values()):.1f} ({spent})"),
        ]
        for name in ("options", "strengths"):
            rows.append((name, ", ".join(f"{key} {value}" for key, value in self.fit[name].items())))
        return Section(
            "The fit",
            [Table([Column("what"), Column("value")], rows)],
            remarks=[*self.fit["remarks"], *self.ridge_remarks],
        )


def write_report(
    model: Path,
    cache: FeatureCache,
    output: Path,
    *,
    train: FeatureCache | None = None,
    data: Path | None = None,
    pictures: int = 8,
    alphas: Sequence[float] = ALPHAS,
    on_progress: Progress = lambda step, done, total: None,
) -> Report:
    """Measure a fitted detector and write a page, ``report.md``, ``report.json`` and their plots into ``output``.

    Args:
        model: folder that ``detheads analytical fit`` wrote.
        cache: validation cache, restricted to the model's classes.
        train: training cache, restricted likewise; where given, AP on it stands beside that on ``cache``.
        data: dataset folder with the validation images, for pictures of the worst of them.
        pictures: number of pictures at most.
        alphas: positive penalties of the lambda curve, which is drawn from the training rows' statistics (left out
            where the model folder does not hold them); the fit's own is added.

    Raises:
        UserError: when the folder holds no finished closed-form fit, a cache is of another backbone, size or classes,
            a file is damaged, a penalty is not positive, ``output`` is a file, or the pictures cannot be drawn.
    """
    if not all(0 < alpha < math.inf for alpha in alphas):
        raise UserError(f"the penalties of the lambda curve are positive numbers, not {list(alphas)}.")
    require_folder(output)
    checkpoint = load_checkpoint(model)
    head = build_head(checkpoint)
    if not isinstance(head, ClosedForm):
        raise UserError(f"{model} holds a head {checkpoint.head_name!r}; the report is for a closed-form fit.")
    cache = matching_cache(checkpoint, cache)
    fit = _read_fit(model)

    results = predict_cache(head, cache, on_progress=on_progress)
    training = None
    if train is not None:
        training = evaluate_cache(
            head,
            matching_cache(checkpoint, train),
            on_progress=lambda _, done, total: on_progress("training images", done, total),
        )
    measured = measure(cache.dataset, results, evaluate(cache.dataset.coco_json(), results))
    examples = draw_worst(measured, data, pictures)
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
        parameters=parameters_of(head),
        facts={**data_facts(measured, cache), "Version": f"detheads {__version__}"},
        measured=measured,
        training=training,
        fit=fit,
        separations=separations,
        background_share=background_share,
        coverage=measure_coverage(head.anchors, torch.cat([cache.targets(i).boxes for i in range(len(cache))])),
        alphas=swept,
        ridges=ridges,
        ridge_remarks=noted.remarks,
    )
    document = report.document(examples, PICTURES_HINT if pictures and data is None else "")
    write_document(document, output, plots_left=() if ridges else [RIDGE_PLOT])
    return report


def _read_fit(model: Path) -> dict[str, Any]:
    found = read_json(model / FIT_NAME)
    missing = [key for key in _FIT_KEYS if key not in found]
    if missing:
        raise UserError(f"{model / FIT_NAME} has no {missing[0]!r}: the fit was not finished; run it again.")
    return {key: found[key] for key in _FIT_KEYS}
