"""Several runs on the same images: what each reaches, and how far it is from the first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
