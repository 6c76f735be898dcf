"""What tiles bring on large pictures: mosaics of a dataset's pictures, run whole and in tiles, judged by picture.

The detections of a mosaic are given back to the pictures that it is made of, so that all ways are judged by the same
ground truth and the same count of detections a picture, and running each picture alone is what tiles could reach.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from detheads.data.dataset import Category, Dataset, ImageRecord
from detheads.data.pictures import load_picture
from detheads.data.same_classes import of_these_classes
from detheads.deploy.detections import Detections
from detheads.deploy.detector import Detector
from detheads.deploy.tiles import Tiling, run_tiled
from detheads.evaluation.coco import evaluate
from detheads.foundation.geometry import PAD_VALUE
from detheads.foundation.progress import Progress

WAYS = ("each picture alone", "mosaics whole", "tiles", "tiles and whole")


@dataclass(frozen=True)
class Way:
    """One way to run the pictures.

    Attributes:
        AP, APs, APm, APl, ARs: COCO statistics in 0..1; None where no object defines one.
        seconds: a mosaic took, or the pictures of one.
    """

    name: str
    AP: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    ARs: float | None
    seconds: float


@dataclass(frozen=True)
class TilesBench:
    """Mosaics of ``grid x grid`` pictures, of ``width x height`` pixels, run in several ways."""

    images: int
    mosaics: int
    width: int
    height: int
    tile: int
    overlap: float
    ways: list[Way]


@dataclass(frozen=True)
class _Mosaic:
    picture: Image.Image
    parts: list[tuple[ImageRecord, int, int]]
    """What it is made of, with the left and the top of each."""


def bench_tiles(
    detector: Detector, dataset: Dataset, grid: int, tile: int, overlap: float, batch: int, on_progress: Progress
) -> TilesBench:
    """Lay a dataset's pictures side by side in mosaics and detect in these.

    Args:
        detector: of one head, whose classes the dataset has.
        grid: pictures along a side of a mosaic.
        tile, overlap: see :class:`Tiling`.
        batch: tiles in one run of the graph.

    Raises:
        UserError: when the dataset lacks a class, or a picture cannot be read.
    """
    dataset = of_these_classes(dataset, [Category(each.id, each.name) for each in detector.classes], "the bundle")
    ids = [entry.id for entry in detector.classes]
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    seconds = dict.fromkeys(WAYS, 0.0)
    side = max(max(record.width, record.height) for record in dataset.images)
    mosaics = 0
    for mosaic in _mosaics(dataset, grid, side):
        for way in WAYS:
            started = time.perf_counter()
            found = _found(detector, mosaic, way, Tiling(tile, overlap, way == "tiles and whole"), batch)
            seconds[way] += time.perf_counter() - started
            for record, of_record in found:
                results[way] += of_record.to_coco(record.id, ids)
        mosaics += 1
        on_progress("mosaics", mosaics, -(-len(dataset.images) // grid**2))
    truth = dataset.coco_json()
    ways = []
    for way in WAYS:
        judged = evaluate(truth, results[way])
        ways.append(Way(way, judged.AP, judged.APs, judged.APm, judged.APl, judged.ARs, seconds[way] / mosaics))
    return TilesBench(len(dataset.images), mosaics, grid * side, grid * side, tile, overlap, ways)


def _mosaics(dataset: Dataset, grid: int, side: int) -> Iterator[_Mosaic]:
    """Mosaics of all pictures, each in a cell of ``side x side`` pixels, on the grey of the letterbox."""
    records = iter(dataset.images)
    while chunk := list(islice(records, grid**2)):
        picture = Image.new("RGB", (grid * side, grid * side), (PAD_VALUE,) * 3)
        parts = []
        for number, record in enumerate(chunk):
            left, top = number % grid * side, number // grid * side
            picture.paste(load_picture(record), (left, top))
            parts.append((record, left, top))
        yield _Mosaic(picture, parts)


def _found(
    detector: Detector, mosaic: _Mosaic, way: str, tiling: Tiling, batch: int
) -> list[tuple[ImageRecord, Detections]]:
    """What is found in each picture of a mosaic, in its own pixels."""
    if way == WAYS[0]:
        pictures = (mosaic.picture.crop((x, y, x + record.width, y + record.height)) for record, x, y in mosaic.parts)
        return list(zip((record for record, *_ in mosaic.parts), detector(pictures, batch=batch), strict=True))
    found = detector(mosaic.picture) if way == WAYS[1] else run_tiled(detector, mosaic.picture, tiling, batch)
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    parts = []
    for record, left, top in mosaic.parts:
        size = np.array([record.width, record.height])
        corner = np.array([left, top])
        here = found.where(((centres >= corner) & (centres < corner + size)).all(axis=1))
        boxes = np.clip(here.boxes - np.tile(corner, 2), 0, np.tile(size, 2))
        parts.append((record, Detections(boxes, here.scores, here.labels, here.names)))
    return parts
