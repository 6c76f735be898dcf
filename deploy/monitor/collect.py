"""What a bundle stores of the pictures it is proven on, for :class:`detheads.deploy.monitor.monitor.Monitor`."""

from collections.abc import Sequence

from PIL import Image

from detheads.deploy.matching import Found
from detheads.deploy.monitor.drift import histogram
from detheads.deploy.monitor.measures import MEASURES, Values, of_found, of_picture
from detheads.foundation.field_statistics import FieldStatistics
from detheads.foundation.geometry import letterbox_image


def measured(image: Image.Image, width: int, height: int) -> Values:
    """What the pixels of an RGB picture say, in an input of this size."""
    return of_picture(*letterbox_image(image, width, height))


def collect(
    pictures: Sequence[Values],
    sizes: Sequence[tuple[int, int]],
    found: Sequence[Found],
    *,
    counted_from: Sequence[float],
    floor: float,
    dataset: str,
    split: str,
) -> FieldStatistics:
    """The histograms of all measures over the pictures of a proof.

    Args:
        pictures: what :func:`measured` says of each.
        sizes: width and height of each, in the pixels of its boxes.
        found: all that was detected in each.
        counted_from: the score from which a detection of each class counts, ``[K]``.
        floor: the score that detections exceed to leave the graph.
    """
    values = [
        {**picture, **of_found(one.boxes, one.scores, one.labels, size, counted_from, floor)}
        for picture, size, one in zip(pictures, sizes, found, strict=True)
    ]
    histograms = {
        name: histogram(measure, [one[name] for one in values if name in one]) for name, measure in MEASURES.items()
    }
    return FieldStatistics(
        dataset=dataset,
        split=split,
        images=len(values),
        counted_from=list(counted_from),
        histograms=histograms,
    )
