"""A small world of pictures and detections, and what a bundle that was proven on it says."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy.detector import Detections, Prepared
from detheads.deploy.monitor.collect import collect, measured
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.manifest import BundledHead, ClassEntry, HeadEntry, ParityEntry, Thresholds

SIDE = 64
CLASSES = [ClassEntry(id=3, name="cat"), ClassEntry(id=17, name="dog")]
Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def scene(random: np.random.Generator) -> NDArray[np.uint8]:
    """Coloured patches with grain, 64 x 80 pixels; warmer on the whole than cold, as photographs are."""
    light, tint = random.uniform(70, 150), random.normal(15, 12)
    patches = random.normal(light, 45, (5, 6, 3)) + np.array([tint, 0, -tint]) / 2
    smooth = Image.fromarray(patches.clip(0, 255).astype(np.uint8)).resize((80, 64), Image.Resampling.BICUBIC)
    return (np.asarray(smooth) + random.normal(0, 6, (64, 80, 1))).clip(0, 255).astype(np.uint8)


def pictures(count: int, seed: int, change: Change = lambda array: array) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    return [Image.fromarray(np.ascontiguousarray(change(scene(random)))) for _ in range(count)]


def detections(seed: int, *, score: float = 0.7, side: float = 20, objects: float = 3) -> Detections:
    """Some boxes of about that side and score, best first."""
    random = np.random.default_rng(seed)
    count = 1 + random.poisson(objects)
    corner = random.uniform(0, 30, (count, 2))
    sides = side * random.uniform(0.8, 1.2, (count, 1))
    scores = np.sort(random.normal(score, 0.1, count).clip(0.06, 1))[::-1].astype(np.float32)
    labels = random.integers(0, 2, count).astype(np.int32)
    return Detections(np.hstack([corner, corner + sides]), scores, labels)


def prepare(image: Image.Image) -> Prepared:
    return letterbox_image(image, SIDE, SIDE)


def proven_head(images: int = 120, name: str = "head") -> BundledHead:
    """A head that was proven on pictures of this world."""
    shown = pictures(images, seed=0)
    seen = collect(
        [measured(image, SIDE, SIDE) for image in shown],
        [image.size for image in shown],
        [detections(seed) for seed in range(images)],
        counted_from=[0.5, 0.5],
        floor=0.05,
        dataset="world",
        split="val",
    )
    return unproven_head(name).model_copy(update={"field": seen})


def unproven_head(name: str = "head") -> BundledHead:
    return BundledHead(
        name=name,
        head=HeadEntry(name="fcos", config={}, parameters=1),
        classes=CLASSES,
        thresholds=Thresholds(),
        hashes={},
        parity=ParityEntry(batch=1, dense_boxes=0, relative_boxes=0, best_boxes=0, dense_scores=0),
    )
