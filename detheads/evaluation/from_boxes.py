"""Pictures as prompts: the embedding of a class from a few of its boxes, as a trained head sees them.

A head that compares features with class embeddings brings every point into the space of the classes. The mean of what
it makes of the points of a few objects is a direction in that space, as an embedding of a name is: a class without
training (Snell et al., Prototypical Networks for Few-shot Learning, 2017).

The points of a picture have much in common whatever they show, and a mean that keeps it is near everything. So the mean
of the points that belong to no object is taken off (compare Wang et al., SimpleShot, 2019, who centre features). A head
trained on ``aquarium`` finds the blood cells of ``bccd`` by ten boxes a class with an AP of 0.117 so, of 0.020 without
(one draw of boxes; ``docs/vocabulary.md`` has more).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.backbones.backbone import Backbone
from detheads.backbones.features import FeatureSpec
from detheads.data.dataset import Dataset
from detheads.data.pictures import load_picture
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.progress import Progress, silent
from detheads.headkit.contract import Head
from detheads.headkit.cosine import CosineClassifier
from detheads.headkit.dense import PointHead
from detheads.targets.objects import Targets


@dataclass(frozen=True)
class BoxPrompts:
    """Embeddings of classes.

    Attributes:
        rows: ``[K, D]``, unit length.
        boxes: how many objects each is the mean of.
        pictures: that they stand in.
    """

    rows: Tensor
    boxes: tuple[int, ...]
    pictures: int


def embed_boxes(
    backbone: Backbone,
    head: Head,
    spec: FeatureSpec,
    dataset: Dataset,
    class_names: Sequence[str],
    count: int,
    seed: int = 0,
    on_progress: Progress = silent,
) -> BoxPrompts:
    """The mean direction of a few objects of each class.

    Args:
        head: trained on features of ``backbone``, whose size ``spec`` tells; both in evaluation mode on one device.
        class_names: classes of the dataset.
        count: objects of each class; all where it has fewer.
        seed: of the choice.

    Raises:
        UserError: when the head does not compare with embeddings, a class has no object that the head could see, or a
            picture cannot be used.
    """
    chosen = _choose(dataset, class_names, count, seed)
    pictures = sorted({image for objects in chosen.values() for image, _ in objects})
    rows: dict[tuple[int, int], Tensor] = {}
    background: list[Tensor] = []
    device = next(head.parameters()).device
    for done, image in enumerate(pictures, start=1):
        objects = dataset.objects[image]
        counted = np.flatnonzero(~objects.crowd)
        array, letterbox = letterbox_image(load_picture(dataset.images[image]), spec.width, spec.height)
        pixels = torch.from_numpy(array).permute(2, 0, 1)[None].to(device)  # [1, 3, H, W]
        boxes = torch.from_numpy(letterbox.to_input(objects.boxes[counted])).float()
        with torch.inference_mode():
            features = backbone(backbone.normalise(pixels))
        found = directions_in(head, features, Targets(boxes, torch.from_numpy(objects.labels[counted])).to(device))
        rows |= {(image, int(place)): row.cpu() for place, row in zip(counted, found.objects, strict=True)}
        background.append(found.others.cpu())
        on_progress("boxes", done, len(pictures))
    ground = torch.stack(background).mean(dim=0)
    means, numbers = [], []
    for name, places in chosen.items():
        seen = [row for place in places if (row := rows[place]).any()]
        if not seen:
            raise UserError(
                f"none of the {len(places)} boxes of {name!r} covers a point of the head's grids, so they say nothing "
                "of it; give larger objects, or a run of a larger input size."
            )
        means.append(F.normalize(torch.stack(seen).mean(dim=0) - ground, dim=0))
        numbers.append(len(seen))
    return BoxPrompts(torch.stack(means), tuple(numbers), len(pictures))


@dataclass(frozen=True)
class Directions:
    """What a head makes of the points of one image.

    Attributes:
        objects: ``[M, D]``, unit length: the mean direction of each object's points; zeros for one that has none.
        others: ``[D]``, the mean direction of the points that belong to none; zeros where there are none.
    """

    objects: Tensor
    others: Tensor


@torch.inference_mode()
def directions_in(head: Head, features: Mapping[str, Tensor], targets: Targets) -> Directions:
    """The points of one image in the space of a head's classes; points belong to objects as in training.

    Args:
        features: of the image, by layer.

    Raises:
        UserError: when the head does not compare with embeddings at points.
    """
    classifiers = [module for module in head.modules() if isinstance(module, CosineClassifier)]
    if not isinstance(head, PointHead) or len(classifiers) != 1:
        raise UserError(
            f"the head {type(head).__name__} does not compare classes with embeddings, so boxes cannot become classes; "
            "train split_tower or prototype."
        )
    levels: list[Tensor] = []
    handle = classifiers[0].register_forward_pre_hook(lambda _, inputs: levels.append(inputs[0]))
    try:
        output = head(features)
    finally:
        handle.remove()
    matches = head.match(output, [targets])
    points = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)[0]  # [N, hidden]
    directions = classifiers[0].directions(points)  # [N, D]
    sums = directions.new_zeros(len(targets.labels), directions.shape[1])
    objects = F.normalize(sums.index_add_(0, matches.objects, directions[matches.points]), dim=1)
    free = torch.ones(len(points), device=points.device)
    free[matches.points] = 0.0
    return Directions(objects, free @ directions / free.sum().clamp(min=1))


def _choose(dataset: Dataset, class_names: Sequence[str], count: int, seed: int) -> dict[str, list[tuple[int, int]]]:
    """For each class its objects: image and place in it."""
    random = np.random.default_rng(seed)
    names = dataset.class_names
    chosen = {}
    for name in class_names:
        label = names.index(name)
        objects = [
            (image, int(place))
            for image, known in enumerate(dataset.objects)
            for place in np.flatnonzero((known.labels == label) & ~known.crowd)
        ]
        if not objects:
            raise UserError(
                f"{dataset.name} {dataset.split} has no box of {name!r} that counts (crowd regions do not); leave the "
                "class out with --classes, or give another split."
            )
        order = random.permutation(len(objects))[:count]
        chosen[name] = [objects[place] for place in order]
    return chosen
