"""Example pictures of a report: the ground truth and what the best heads found, side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detheads.arena.leaderboard import Entry
from detheads.arena.records import Setting, detections_path
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset
from detheads.foundation.coco_results import read_results
from detheads.foundation.errors import UserError
from detheads.report.pictures import Drawing, Example, Scene, boxes_text, draw_examples, image_paths

SCORE = 0.3
"""Only detections above this score are drawn."""


def examples_of(
    arena: Path, setting: Setting, entries: Sequence[Entry], data: Path, pictures: int, heads_drawn: int
) -> list[Example]:
    """Examples of the validation images with the most objects.

    Args:
        arena: the folder with the heads' detections.
        entries: the leaderboard; its first heads that finished are drawn.
        data: dataset folder with the image files.
        pictures: number of images at most.
        heads_drawn: heads a picture at most.

    Raises:
        UserError: when the cache of the validation images is gone or another one, or an image file is missing.
    """
    cache = FeatureCache(Path(setting.val_cache))
    if cache.sha256 != setting.val_sha256:
        raise UserError(
            f"{cache.folder} is no longer the cache the arena was run on; build that one again or leave out --data."
        )
    truth = cache.dataset
    chosen = _with_most_objects(truth, pictures)
    paths = image_paths(truth, chosen, data)
    ids = {truth.images[index].id: index for index in chosen}
    best = [entry.head for entry in entries if entry.status == "done"][:heads_drawn]
    found = {head: _detections(arena, head, truth, ids) for head in best}
    return draw_examples(
        [
            Scene(truth.images[index], paths[index], [_truth(truth, index), *(found[head][index] for head in best)])
            for index in chosen
        ]
    )


def _with_most_objects(dataset: Dataset, count: int) -> list[int]:
    """Indices of the images with the most objects, crowd regions not counted; of equal ones the lower id."""
    order = sorted(
        range(len(dataset.images)),
        key=lambda index: (-int((~dataset.objects[index].crowd).sum()), dataset.images[index].id),
    )
    return order[:count]


def _truth(truth: Dataset, index: int) -> Drawing:
    objects = truth.objects[index]
    boxes, labels = objects.boxes[~objects.crowd], objects.labels[~objects.crowd]
    names = [truth.class_names[label] for label in labels]
    return Drawing(f"ground truth: {boxes_text(len(boxes))}", boxes, names, labels)


def _detections(arena: Path, head: str, truth: Dataset, ids: dict[int, int]) -> dict[int, Drawing]:
    """A head's detections above ``SCORE``, by image index; ``ids`` gives the index of each image id wanted."""
    label_of = {category.id: label for label, category in enumerate(truth.categories)}
    kept: dict[int, list[tuple[list[float], int, float]]] = {index: [] for index in ids.values()}
    for entry in read_results(detections_path(arena, head)):
        if entry["image_id"] in ids and entry["score"] > SCORE:
            kept[ids[entry["image_id"]]].append((entry["bbox"], label_of[entry["category_id"]], entry["score"]))
    found = {}
    for index, each in kept.items():
        boxes = np.array([box for box, *_ in each], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels, scores = [label for _, label, _ in each], np.array([score for *_, score in each])
        names = [truth.class_names[label] for label in labels]
        found[index] = Drawing(f"{head}: {boxes_text(len(boxes))}", boxes, names, labels, scores)
    return found
