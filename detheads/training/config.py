"""Everything that decides how a head is trained. Saved with the run; a resumed run must have the same."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from detheads.foundation.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Mirror = Literal["auto", "images", "features", "none"]

MAX_SEED = 2**32
SWEPT = 1 / 3
"""Share of the schedule, its last part, that a sweep looks at: the source's (phanerozoic/detection-heads) went over the
steps 80,000 to 117,000 of 118,288."""
MOST_HELD_OUT = 5000
"""Pictures that are held out when nobody says how many: those of COCO's validation split, on which AP is known to a few
tenths of a point. Of fewer than ten times as many pictures it is a tenth."""


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run.

    Attributes:
        epochs: passes over the cache.
        steps: optimiser steps after which the training ends, in the middle of a pass if need be, whatever ``epochs``
            says; 0 for whole passes.
        batch: images a step.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW, on weights of more than one axis only.
        warmup_steps: linear warm-up; a cosine to zero follows.
        ema_decay: of the averaged weights, which are evaluated and shipped; warmed up as (1 + t) / (10 + t).
        clip_norm: largest gradient norm.
        flips: probability of mirroring an image.
        mirror: what stands for a mirrored image: ``images``, the features of the mirrored picture, which the cache must
            hold; ``features``, those of the plain one turned from left to right; ``none``; ``auto`` is ``images`` where
            the cache holds them and ``none`` where it does not.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        precision: ``auto`` is mixed precision on a GPU (bf16 where it has it) and fp32 on a CPU.
        seed: of initial weights, order and flips.
        shuffle_window: GB (10^9 bytes) of stored features out of which the images of a batch are drawn, where a cache
            has more (see :mod:`detheads.training.shuffle`); 0 draws from all of it.
        channels_last: keep features and weights in that memory format. On a CPU with AVX2 a step then took 0.90 (fcos)
            and 0.95 (split_tower) of the time in fp32, and 1.50 and 1.13 in bf16; no GPU was measured.
        compile: compile the head's forward and backward pass with ``torch.compile``, which takes minutes at first.
        sweep: checkpoints in the last third of the schedule, of which the best, live or averaged, is shipped (see
            :mod:`detheads.training.sweep`); 0 ships the best of the evaluations on the validation cache.
        hold_out: training pictures that a sweep is judged by and that are not trained on; 0 is a tenth of them, and
            no more than :data:`MOST_HELD_OUT`.
        train_only: names of the parameters that learn, as :mod:`detheads.training.only` reads them; empty for all.
    """

    epochs: int = 12
    batch: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    ema_decay: float = 0.9998
    clip_norm: float = 5.0
    flips: float = 0.5
    mirror: Mirror = "auto"
    eval_every: int = 1
    precision: Precision = "auto"
    seed: int = 0
    shuffle_window: float = 8.0
    channels_last: bool = False
    compile: bool = False
    sweep: int = 0
    hold_out: int = 0
    train_only: tuple[str, ...] = ()
    steps: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "eval_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("lr", "clip_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UserError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("warmup_steps", "sweep", "hold_out", "steps"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        if self.hold_out and not self.sweep:
            raise UserError("pictures are held out to judge a sweep by; give --sweep, too, or leave --hold-out out.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UserError(f"weight_decay must be 0 or more, not {self.weight_decay}.")
        if not (math.isfinite(self.shuffle_window) and self.shuffle_window >= 0):
            raise UserError(f"shuffle_window must be 0 or more, not {self.shuffle_window}.")
        if not 0 <= self.seed < MAX_SEED:
            raise UserError(f"seed must be a whole number from 0 to {MAX_SEED - 1}, not {self.seed}.")
        if self.mirror not in get_args(Mirror):
            raise UserError(f"mirror is one of {', '.join(get_args(Mirror))}, not {self.mirror!r}.")
        for name in ("flips", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be between 0 and 1, not {getattr(self, name)}.")

    def learning_rate(self, step: int, total_steps: int) -> float:
        """The learning rate of optimiser step ``step`` (0-based): linear warm-up, then half a cosine."""
        warmup = min(self.warmup_steps, max(1, total_steps // 10))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    def rate_at(self, step: int, stretches: Sequence[int]) -> float:
        """The learning rate of step ``step`` of a training that was extended.

        Each stretch is a warm restart (Loshchilov and Hutter 2017): :meth:`learning_rate` over its own steps.

        Args:
            stretches: steps of the training, and of each extension.
        """
        for length in stretches[:-1]:
            if step < length:
                return self.learning_rate(step, length)
            step -= length
        return self.learning_rate(step, stretches[-1])

    def sweep_steps(self, stretches: Sequence[int]) -> tuple[int, ...]:
        """After how many steps a sweep looks at the weights: evenly over the last third of each stretch, its end too.

        Args:
            stretches: as :meth:`rate_at` takes them. Fewer steps than points have a point each.
        """
        steps, before = set[int](), 0
        for length in stretches:
            gap = SWEPT * length / max(1, self.sweep - 1)
            steps |= {before + max(1, round(length - gap * back)) for back in range(self.sweep)}
            before += length
        return tuple(sorted(steps))
