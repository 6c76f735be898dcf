"""The heads that a making chooses from, in the order in which they are tried, and how they are trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from detheads.cache.reader import FeatureCache
from detheads.headkit import registry
from detheads.make.request import Request
from detheads.training.config import Mirror, Precision, TrainConfig

USEFUL_STEPS = 400
"""Optimiser steps of a training with which heads are compared: in them raccoon, bccd and aquarium reach 0.99, 0.98 and
0.81 of the AP that they reach in an hour (docs/results.md); the best head is trained for longer after that."""
FEWEST_EPOCHS, MOST_EPOCHS = 10, 60
"""Bounds of the epochs that give them: large datasets want several passes, small ones are learned by heart."""
EVALUATIONS = 5
"""Of a training, about: the best of them is shipped."""
FIRST_HEADS = 2
"""Heads that are compared before the best of them is given more epochs and altered pictures; the others come after."""
BATCH, SMALL_BATCH, SMALL_SET = 8, 4, 64
"""Pictures a step; fewer where there are few, so that an epoch has more than a handful of steps."""
WIDTHS = {"cpu": 64, "cuda": 128}
"""Channels of the heads: what a CPU trains in minutes (docs/results.md has all of them at this width), and twice that
where a GPU does."""


@dataclass(frozen=True)
class Contender:
    """A head with its options."""

    head: str
    options: Mapping[str, Any] = field(default_factory=dict)


def contenders_for(request: Request, device: torch.device) -> list[Contender]:
    """The heads to try: the user's, or those of docs/results.md that did best, in this order.

    In as many epochs, and with half of the parameters, ``optimal_transport`` is ahead of ``fcos`` on raccoon, bccd and
    aquarium (AP 0.615, 0.585 and 0.210 where that has 0.592, 0.563 and 0.205); ``split_tower`` is best on coco-person
    when it trains for long, ``threshold_prototype`` is second on aquarium in the arena.

    Raises:
        UserError: unknown head or option.
    """
    if request.head is not None:
        values = registry.config_dict(registry.entry(request.head), request.options)
        return [Contender(request.head, {name: values[name] for name in request.options})]
    width = WIDTHS.get(device.type, WIDTHS["cuda"])
    small = {"hidden": width, "text_dim": width, "standard_blocks": 3, "depthwise_blocks": 2}
    return [
        Contender("optimal_transport", {"width": width}),
        Contender("fcos", {"width": width, "tower_blocks": 3, "assigner": "atss"}),
        Contender("split_tower", small),
        Contender("threshold_prototype", {"width": width}),
    ]


def training_config(
    request: Request, pictures: int, epochs: int, precision: Precision, mirror: Mirror = "auto"
) -> TrainConfig:
    """How every contender is trained.

    Args:
        pictures: of the training cache.
        mirror: what stands for mirrored pictures.
    """
    return TrainConfig(
        epochs=epochs,
        batch=batch_for(pictures),
        weight_decay=0.05,  # that of the best rows of docs/results.md
        eval_every=max(1, round(epochs / EVALUATIONS)),
        mirror=mirror,
        precision=precision,
        seed=request.seed,
    )


def mirror_for(train: FeatureCache) -> Mirror:
    """The features of mirrored pictures, or the plain ones turned where those are not cached."""
    return "images" if train.has_flips else "features"


def batch_for(pictures: int) -> int:
    return BATCH if pictures >= SMALL_SET else SMALL_BATCH


def useful_epochs(pictures: int) -> int:
    """Passes over so many pictures, where there is time."""
    steps = -(-pictures // batch_for(pictures))
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, -(-USEFUL_STEPS // steps)))
