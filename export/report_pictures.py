"""The pictures of a proof's page: what both sides find in the images that differ most."""

from collections.abc import Sequence

import numpy as np

from detheads.data.dataset import Dataset
from detheads.export.matching import Comparison, Found, match
from detheads.report.pictures import Drawing, Scene, boxes_text

SHOWN_SCORE = 0.3
"""Detections that both sides have are drawn from this score on; what only one has is drawn whatever its score."""
BOTH, ONE = 4, 0
"""Colours of what both sides find and of what one finds, as indices into the palette of drawn boxes."""


def scenes(dataset: Dataset, live: Sequence[Found], artefact: Sequence[Found], count: int) -> list[Scene]:
    """The images with the most detections of one side only, then those with the largest differences of boxes."""
    compared = [Comparison.of([one], [other]) for one, other in zip(live, artefact, strict=True)]

    def difference(place: int) -> tuple[int, float]:
        found = compared[place]
        return found.only_first + found.only_second, found.box_difference

    chosen = sorted(range(len(compared)), key=difference, reverse=True)[:count]
    return [_scene(dataset, place, live[place], artefact[place]) for place in chosen]


def _scene(dataset: Dataset, place: int, one: Found, other: Found) -> Scene:
    pairs = match(one, other)
    record = dataset.images[place]
    drawings = [
        _drawing("PyTorch", one, {row for row, _ in pairs}, dataset.class_names),
        _drawing("artefact", other, {column for _, column in pairs}, dataset.class_names),
    ]
    return Scene(record, record.path, drawings)


def _drawing(side: str, found: Found, paired: set[int], names: Sequence[str]) -> Drawing:
    both = np.isin(np.arange(len(found.scores)), list(paired))
    rows = np.flatnonzero(~both | (found.scores >= SHOWN_SCORE))
    lone = int((~both).sum())
    caption = f"{side}: {boxes_text(len(found.scores))}" + (f", {lone} without a counterpart" if lone else "")
    return Drawing(
        caption,
        found.boxes[rows],
        [names[label] for label in found.labels[rows]],
        np.where(both[rows], BOTH, ONE),
        np.asarray(found.scores[rows], np.float64),
    )
