"""Several runs on the same images: what each reaches, and how far it is from the first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from detheads.evaluation.coco import judge_at
from detheads.evaluation.compare import IOUS, Bootstrap, Interval, Resampled
from detheads.evaluation.scores import score_curves
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent, under
from detheads.report.evaluated import Evaluated


@dataclass(frozen=True)
class ComparedRun:
    """One run beside the first.

    Attributes:
        false_detections: an image, at a recall of one half; None where that is not reached.
        difference: of its AP to the first one's; None for the first.
        interval: in which 95 % of the differences lie when the images are drawn anew.
    """

    run: str
    head: str
    parameters: int
    AP: float | None
    AP50: float | None
    best_f1: float | None
    false_detections: float | None
    difference: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Repeated:
    """Runs of one head with one set of options, which differ in their seeds (or in what they were trained on).

    Attributes:
        AP: mean.
        spread: sample standard deviation.
    """

    head: str
    options: Mapping[str, Any]
    runs: Sequence[str]
    AP: float
    spread: float


def repeated_runs(found: Sequence[Evaluated]) -> list[Repeated]:
    """The heads of which there are several runs, in the order of the first of each; one given twice counts once."""
    groups: dict[str, dict[str, Evaluated]] = {}
    for each in found:
        if each.head is not None and each.statistics.AP is not None:
            same = json.dumps([each.answer["head"], each.answer["options"]], sort_keys=True)
            groups.setdefault(same, {})[each.answer["checkpoint_sha256"]] = each
    several = [list(group.values()) for group in groups.values() if len(group) > 1]
    return [
        Repeated(
            group[0].answer["head"],
            group[0].answer["options"],
            [each.name for each in group],
            fmean(aps),
            stdev(aps),
        )
        for group in several
        for aps in [[each.statistics.require_ap() for each in group]]
    ]


def compare_runs(found: Sequence[Evaluated], on_progress: Progress = silent) -> list[ComparedRun]:
    """The runs in the order given, each against the first.

    Raises:
        UserError: when they were evaluated on other images or classes.
    """
    first = found[0]
    for other in found[1:]:
        if other.dataset.class_names != first.dataset.class_names:
            here, there = set(first.dataset.class_names), set(other.dataset.class_names)
            only = [
                f"only {each.name} finds {', '.join(sorted(names)[:3])}"
                for each, names in ((first, here - there), (other, there - here))
                if names
            ]
            raise UserError(
                f"{first.name} and {other.name} find different classes ({'; '.join(only) or 'in another order'}), so "
                "their figures cannot be compared; evaluate each by itself."
            )
        if [image.id for image in other.dataset.images] != [image.id for image in first.dataset.images]:
            raise UserError(f"{first.name} and {other.name} were evaluated on other images; use one cache for both.")
    truth, base = first.dataset.coco_json(), first.statistics.require_ap()
    baseline = Bootstrap(Resampled(judge_at(truth, first.detections, IOUS)))
    rows = []
    for each in found:
        curves, (head, parameters) = score_curves(truth, each.detections), each.head or ("", 0)
        best = curves.together.best
        row = ComparedRun(
            each.name,
            head,
            parameters,
            each.statistics.AP,
            each.statistics.AP50,
            None if best is None else best.f1,
            curves.at_recall.false_detections,
        )
        if each is not first:
            judged = Resampled(judge_at(truth, each.detections, IOUS))
            interval = baseline.differences(judged, under(f"comparing {each.name}", on_progress)).AP
            row = replace(row, difference=each.statistics.require_ap() - base, interval=interval)
        rows.append(row)
    return rows
