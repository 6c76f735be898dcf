"""Which constants of suppression give an artefact's detections, where its tensors before suppression are right."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from detheads.export.explain.distance import REPRODUCES, SAME, mean_distance
from detheads.export.explain.explanation import Cause
from detheads.export.matching import Found
from detheads.foundation.manifest import Thresholds

IOUS = [round(0.05 * step, 2) for step in range(1, 20)]
SCORES = [0.001, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]
MOST = [1, 5, 10, 20, 50, 100, 200, 300, 500, 1000]


def explain_suppression(
    found: Sequence[Found],
    meant: Thresholds,
    suppress: Callable[[Thresholds], Sequence[Found]],
    same: float = SAME,
) -> Cause | None:
    """The constants with which PyTorch suppresses as the artefact does; None where those that are meant do.

    Args:
        found: the artefact's detections.
        suppress: the same pictures' dense predictions, suppressed with some constants.
        same: distance up to which detections are the same.
    """
    base = mean_distance(suppress(meant), found)
    if base <= same:
        return None
    tried = [(mean_distance(suppress(changed), found), name, value) for name, value, changed in _changed(meant)]
    best, name, _ = min(tried, key=lambda one: one[0])
    evidence = {"distance": base, "distance_with_it": best}
    if best > REPRODUCES * base:
        return Cause(
            "unknown",
            "suppression",
            "the tensors before suppression are right and no other IoU, score floor or number of detections gives its "
            "detections: suppression itself computes something else",
            evidence,
        )
    good = [value for left, other, value in tried if other == name and left <= best + SAME]
    told = f"{good[0]:g}" if len(good) == 1 else f"{good[0]:g} to {good[-1]:g}"
    was = getattr(meant, _FIELDS[name])
    sentence = f"the artefact suppresses with {name} {told} where {was:g} is meant: with that PyTorch finds the same"
    return Cause("suppression", "suppression", sentence, {**evidence, "constant": name, "values": good, "meant": was})


_FIELDS = {"an IoU of": "nms_iou", "a lowest score of": "score", "detections of an image at most:": "max_detections"}


def _changed(meant: Thresholds) -> Iterator[tuple[str, float, Thresholds]]:
    tried: tuple[list[float], ...] = ([*IOUS, 1.0], SCORES, [float(most) for most in MOST])
    for (name, attribute), values in zip(_FIELDS.items(), tried, strict=True):
        for value in values:
            if not np.isclose(value, getattr(meant, attribute)):
                yield (
                    name,
                    value,
                    meant.model_copy(update={attribute: int(value) if attribute == "max_detections" else value}),
                )
