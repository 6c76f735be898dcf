"""What a head may take to train: passes over the cache, steps, or minutes, which are as many steps as fit into them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from detheads.arena.records import SETTING_NAME, read_setting
from detheads.cache.reader import FeatureCache
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json
from detheads.training.config import TrainConfig
from detheads.training.pace import step_seconds

UNITS = ("minutes", "steps", "epochs")
"""A budget is the first of these that a setting names."""
TIMED = 0.02
"""Share of the minutes over which a head's steps are timed beforehand, so that a moment's load does not decide how many
there are: a schedule has to know its end when it begins."""


class Pace(BaseModel):
    """How many steps fit into the minutes of one head, by the time that a step took when it began.

    Kept in a file, so that a training that goes on has the same end, and all seeds have the same steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1)
    step_seconds: float = Field(gt=0, allow_inf_nan=False)


def described(training: Mapping[str, Any], minutes: float | None) -> dict[str, Any]:
    """The training of a setting with its budget alone: none of the options that it outranks."""
    values = {**training, **({} if minutes is None else {"minutes": minutes})}
    budget = next(unit for unit in UNITS if values.get(unit))
    return {name: value for name, value in values.items() if name == budget or name not in UNITS}


def told(training: Mapping[str, Any]) -> str:
    """A budget as the command line takes it."""
    budget = next((unit for unit in UNITS if training.get(unit)), None)
    return "none" if budget is None else f"--{budget} {training[budget]:g}"


def require_same_budget(arena: Path, training: Mapping[str, Any]) -> None:
    """Refuse to go on with another budget, for then no two rows could be compared.

    Raises:
        UserError: when the folder holds an arena that has another one.
    """
    if not (arena / SETTING_NAME).is_file():
        return
    before, now = told(read_setting(arena).training), told(training)
    if before != now:
        raise UserError(
            f"{arena} was run with {before}, now with {now}; all heads of an arena have one budget: give the same, or "
            "another folder with -o."
        )


def steps_within(
    minutes: float,
    path: Path,
    head: str,
    options: Mapping[str, Any],
    cache: FeatureCache,
    config: TrainConfig,
    device: torch.device,
    class_embeddings: Tensor | None,
) -> int:
    """Steps of a head that fit into minutes of training, evaluations left out.

    Args:
        path: where that is written down; what stands there already counts.

    Raises:
        UserError: when the file is damaged, or the head cannot be trained.
    """
    if path.is_file():
        try:
            return Pace.model_validate(read_json(path)).steps
        except ValidationError:
            raise UserError(f"{path} is damaged; delete it and the head's run, and run the arena again.") from None
    seconds = 60 * minutes
    step, _ = step_seconds(
        head, options, cache, config, device, class_embeddings=class_embeddings, least=TIMED * seconds
    )
    pace = Pace(steps=max(1, round(seconds / step)), step_seconds=step)
    atomic.write_json(path, pace.model_dump())
    return pace.steps
