"""The heads that a making chooses from, in the order in which they are tried, and how they are trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from detheads.make.request import Request
from detheads.training.config import Precision, TrainConfig

USEFUL_STEPS = 1000
"""Optimiser steps after which further ones gain little on small datasets."""
FEWEST_EPOCHS, MOST_EPOCHS = 10, 60
"""Bounds of the epochs that give them: large datasets want several passes, small ones are learned by heart."""
EVALUATIONS = 5
"""Of a training, about: the best of them is shipped."""
BATCH, SMALL_BATCH, SMALL_SET = 8, 4, 64
"""Pictures a step; fewer where there are few, so that an epoch has more than a handful of steps."""
WIDTHS = {"cpu": 64, "cuda": 128}
"""Channels of the heads: what a CPU trains in minutes (docs/results.md has all of them at this width), and twice that
where a GPU does."""


@dataclass(frozen=True)
class Contender:
    """A head with its options, and why it takes part."""

    head: str
    options: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


def contenders_for(request: Request, device: torch.device) -> list[Contender]:
    """The heads to try: the user's, or those that did best on five datasets (docs/results.md, the arena)."""
    if request.head is not None:
        return [Contender(request.head, request.options, "as asked for")]
    width = WIDTHS.get(device.type, WIDTHS["cuda"])
    small = {"hidden": width, "text_dim": width, "standard_blocks": 3, "depthwise_blocks": 2}
    return [
        Contender("fcos", {"width": width, "tower_blocks": 3, "assigner": "atss"}, "shares the best mean rank"),
        Contender("optimal_transport", {"width": width}, "shares the best mean rank, with half the parameters"),
        Contender("split_tower", small, "best on coco-person when it trains for long"),
        Contender("threshold_prototype", {"width": width}, "second on aquarium"),
    ]


def training_config(request: Request, pictures: int, epochs: int, precision: Precision) -> TrainConfig:
    """How every contender is trained.

    Args:
        pictures: of the training cache.
    """
    return TrainConfig(
        epochs=epochs,
        batch=batch_for(pictures),
        weight_decay=0.05,  # that of the best rows of docs/results.md
        eval_every=max(1, round(epochs / EVALUATIONS)),
        precision=precision,
        seed=request.seed,
    )


def batch_for(pictures: int) -> int:
    return BATCH if pictures >= SMALL_SET else SMALL_BATCH


def useful_epochs(pictures: int) -> int:
    """Passes over so many pictures, where there is time."""
    steps = -(-pictures // batch_for(pictures))
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, -(-USEFUL_STEPS // steps)))
