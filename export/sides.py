"""The two sides of the proof, each run over the same image files: PyTorch as trained, and the artefact as shipped."""

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import ModelProto
from PIL import Image

from detheads.data.dataset import Dataset, ImageRecord
from detheads.data.pictures import load_picture
from detheads.deploy import Detections
from detheads.deploy.monitor.collect import measured
from detheads.deploy.monitor.measures import Values
from detheads.export.inner import InnerGraph, differences
from detheads.export.live import LiveDetections, LiveDetector
from detheads.export.matching import TensorDifference
from detheads.export.probes import evenly_spaced, odd_pictures
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.manifest import ONLY_HEAD
from detheads.foundation.progress import Progress

TENSOR_IMAGES = 8
"""Images whose tensors before suppression are compared."""


class Artefact(Protocol):
    """What runs the shipped graph: RGB pictures of any sizes as one batch, results in the same order."""

    def detect(self, images: Sequence[Image.Image]) -> Sequence[Detections]: ...


class Timed:
    """An artefact, and how long it has run.

    Attributes:
        seconds: resizing included, reading of files not.
        images: that it was given.
    """

    def __init__(self, artefact: Artefact) -> None:
        self._artefact, self.seconds, self.images = artefact, 0.0, 0

    def detect(self, images: Sequence[Image.Image]) -> Sequence[Detections]:
        started = time.perf_counter()
        found = self._artefact.detect(images)
        self.seconds += time.perf_counter() - started
        self.images += len(images)
        return found


def run_live(
    live: LiveDetector, dataset: Dataset, on_progress: Progress, skip_bad: bool = False
) -> tuple[Dataset, list[LiveDetections], list[Values]]:
    """PyTorch's detections of every image, one image at a time.

    Returns:
        The dataset, with ``skip_bad`` without the images that cannot be used; the detections and what the pixels say
        (see :mod:`detheads.deploy.monitor.measures`), in its order.

    Raises:
        UserError: when an image is missing, unreadable or of another size than annotated (without ``skip_bad``), or
            when none can be used.
    """
    found: list[LiveDetections] = []
    pictures: list[Values] = []
    bad: dict[int, str] = {}
    for index, record in enumerate(dataset.images):
        try:
            image = load_picture(record)
        except UserError as error:
            if not skip_bad:
                raise
            bad[index] = str(error)
            continue
        found.append(live.detect(image))
        pictures.append(measured(image, live.spec.width, live.spec.height))
        on_progress("verifying, PyTorch", index + 1, len(dataset.images))
    return (dataset.without(bad) if bad else dataset), found, pictures


def run_artefact(artefact: Artefact, dataset: Dataset, batch: int, on_progress: Progress) -> list[Detections]:
    """The artefact's detections of every image, with exactly ``batch`` images in every run of the graph.

    The last run is filled up with its last image, whose repeated results are dropped.

    Raises:
        UserError: when an image is missing, unreadable or of another size than annotated.
    """
    found: list[Detections] = []
    for start in range(0, len(dataset.images), batch):
        images = list(_images(dataset.images[start : start + batch]))
        filled = images + images[-1:] * (batch - len(images))
        found += artefact.detect(filled)[: len(images)]
        on_progress(f"verifying, batch {batch}", len(found), len(dataset.images))
    return found


def compare_tensors(
    live: LiveDetector, graph: Path | ModelProto, dataset: Dataset, threads: int | None, head: str = ONLY_HEAD
) -> TensorDifference:
    """The tensors before suppression of some images, those of the artefact read inside its graph.

    Args:
        head: which of the graph's heads.
    """
    inner = InnerGraph(graph, threads)
    difference = TensorDifference()
    chosen = evenly_spaced(len(dataset.images), TENSOR_IMAGES)
    for image in _images(dataset.images[index] for index in chosen):
        array, _ = letterbox_image(image, live.spec.width, live.spec.height)
        found = inner.run(np.ascontiguousarray(array.transpose(2, 0, 1)[None]))[head]
        difference.include(differences(partial(live.dense, image), found))
    return difference


def run_odd(live: LiveDetector, dataset: Dataset) -> tuple[list[str], list[Image.Image], list[LiveDetections]]:
    """PyTorch on pictures of extreme shape: their names, the pictures, what was found."""
    names, pictures = zip(*odd_pictures(dataset.images), strict=True)
    return list(names), list(pictures), [live.detect(picture) for picture in pictures]


def _images(records: Iterable[ImageRecord]) -> Iterator[Image.Image]:
    for record in records:
        yield load_picture(record)
