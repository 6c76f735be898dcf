"""Augmented copies of a dataset, made once and on disk, because features of a frozen backbone are computed once.

The recipe is SSD's (Liu et al. 2016, sections 2.2 and 3.6) with torchvision's transforms: colours, zoom out, a crop
that keeps some object, a mirror image. Colours change gently, because the backbone cannot learn to see past the change.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxFormat

from detheads.data.convert import write_splits
from detheads.data.dataset import Dataset, ImageRecord, Objects
from detheads.data.pictures import load_picture
from detheads.foundation.atomic import write_json
from detheads.foundation.claims import new_folder
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import PAD_VALUE
from detheads.foundation.progress import Progress, silent

SMALLEST_BOX = 3.0
"""Objects cut to less than this many pixels on a side are left out of a copy."""

SMALLEST_CROP = 0.5
"""A crop has at least this share of the image's width and height."""

LARGEST_ZOOM_OUT = 2.0
"""The canvas of a zoomed-out copy is at most this many times as wide as the image."""


def augment_dataset(
    dataset: Dataset,
    target: str | Path,
    copies: int,
    *,
    seed: int = 0,
    skip_bad: bool = False,
    on_progress: Progress = silent,
) -> Dataset:
    """Write ``dataset`` and ``copies`` altered copies of each image as a COCO-style folder, whole or not at all.

    The copies of one image depend on ``seed`` and its position only. Originals are hard-linked where possible.

    Args:
        dataset: the training split.
        target: the folder to write; it must not exist, or be empty.
        copies: altered copies an image, 1 or more.
        seed: another seed gives other copies.
        skip_bad: leave out images that cannot be decoded or are not the annotated ones (``Dataset.skipped``).

    Returns:
        The new dataset.

    Raises:
        UserError: when the target is not empty, ``copies`` is not positive, or an image cannot be read.
    """
    if copies < 1:
        raise UserError(f"--copies must be at least 1, not {copies}.")
    if seed < 0:
        raise UserError(f"a seed is a whole number from 0, not {seed}.")
    target, transform = Path(target), _recipe()
    next_id = max((image.id for image in dataset.images), default=0) + 1
    images: list[ImageRecord] = []
    objects: list[Objects] = []
    bad: dict[int, str] = {}
    with new_folder(target) as partial:
        folder = partial / dataset.split / "augmented"
        folder.mkdir(parents=True)
        for position, (record, known) in enumerate(zip(dataset.images, dataset.objects, strict=True)):
            on_progress("altering images", position, len(dataset.images))
            try:
                original = load_picture(record)
            except UserError as error:
                if not skip_bad:
                    raise
                bad[position] = str(error).removeprefix(str(record.path)).strip()
                continue
            for copy in range(copies):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed((seed * 1_000_003 + position) * 1_009 + copy)
                    picture, remaining = _apply(transform, original, known)
                name = f"{next_id:08d}.jpg"
                picture.save(folder / name, quality=95)
                path = target / dataset.split / "augmented" / name
                images.append(ImageRecord(next_id, f"augmented/{name}", path, picture.width, picture.height))
                objects.append(remaining)
                next_id += 1
        on_progress("altering images", len(dataset.images), len(dataset.images))
        originals = dataset.without(bad)
        write_splits([originals], partial, "coco", link=True)
        result = replace(originals, images=(*originals.images, *images), objects=(*originals.objects, *objects))
        write_json(partial / "annotations" / f"instances_{dataset.split}.json", result.coco_json())
    return result


def _recipe() -> v2.Transform:
    return v2.Compose(
        [
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.4, hue=0.03),
            v2.RandomZoomOut(fill=PAD_VALUE, side_range=(1.0, LARGEST_ZOOM_OUT), p=0.4),
            v2.RandomIoUCrop(min_scale=SMALLEST_CROP),
            v2.RandomHorizontalFlip(p=0.5),
        ]
    )


def _apply(transform: v2.Transform, image: Image.Image, objects: Objects) -> tuple[Image.Image, Objects]:
    """One altered copy and the objects left in it: a crop keeps those whose centre it holds, cut at its edges."""
    pixels = tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))  # [3, H, W]
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(objects.boxes), format=BoundingBoxFormat.XYXY, canvas_size=(image.height, image.width)
    )
    pixels, boxes = transform(pixels, boxes)
    altered = boxes.as_subclass(torch.Tensor).numpy()  # rows of objects that are not kept are zero
    sides = altered[:, 2:] - altered[:, :2]  # [M, 2]
    kept = (sides >= SMALLEST_BOX).all(axis=1)
    shrunk = sides.prod(axis=1) / (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(axis=1)
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return picture, Objects(altered[kept], objects.labels[kept], objects.crowd[kept], (objects.area * shrunk)[kept])
