"""A recipe on its way to the trainer: with what the command line says otherwise, and a folder for each stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detheads.foundation.errors import UserError
from detheads.headkit.options import to_text
from detheads.training.config import TrainConfig
from detheads.training.recipes.recipe import Recipe, Stage


@dataclass(frozen=True)
class Training:
    """One stage with its folder.

    Attributes:
        init: run whose best weights it starts from; None for a new head.
    """

    stage: str
    config: TrainConfig
    run: Path
    init: Path | None


def overridden(recipe: Recipe, training: Mapping[str, Any], head: Mapping[str, Any]) -> tuple[Recipe, list[str]]:
    """The recipe with other options, and a sentence for each that differs.

    An option replaces that of all stages; where the recipe gives its stages different ones (epochs, the rate), that of
    the first.

    Args:
        training: values by the name in :class:`TrainConfig`.
        head: options of the head. Another kind of prototypes than text takes the recipe's text away.

    Raises:
        UserError: when a stage is impossible with them.
    """
    sentences, stages = [], list(recipe.stages)
    for name, value in training.items():
        before = [getattr(stage.config, name) for stage in stages]
        alike = all(old == before[0] for old in before)
        for place, stage in enumerate(stages if alike else stages[:1]):
            stages[place] = Stage(name=stage.name, given={**stage.given, name: value})
        if before[0] != value:
            kept = ", ".join(f"{stage.name} keeps {old}" for stage, old in zip(stages, before, strict=True))
            kept = "" if alike else f" ({kept.partition(', ')[2]})"
            sentences.append(f"--{name.replace('_', '-')} {value} instead of the recipe's {before[0]}{kept}")
    for stage in stages:
        try:
            _ = stage.config
        except UserError as error:
            raise UserError(f"{recipe.name}, stage {stage.name}: {error}") from None
    for name, value in head.items():
        if name in recipe.options and to_text(recipe.options[name]) != to_text(value):
            sentences.append(f"-O {name}={to_text(value)} instead of the recipe's {to_text(recipe.options[name])}")
    changed: dict[str, Any] = {"stages": tuple(stages), "options": {**recipe.options, **head}}
    if head.get("prototypes", "text") != "text":
        changed["text"] = None
    return recipe.model_copy(update=changed), sentences


def with_epochs(recipe: Recipe, *, first: int | None = None, scale: float = 1.0) -> Recipe:
    """The recipe with a longer or shorter schedule: its stages stay in proportion, of one epoch at least each.

    Args:
        first: epochs of the first stage.
        scale: what epochs are multiplied by where ``first`` is None.
    """
    if first is not None:
        scale = first / recipe.stages[0].config.epochs
    stages = []
    for stage in recipe.stages:
        epochs = max(1, round(stage.config.epochs * scale))
        # One that is evaluated at its end only stays so.
        every = {"eval_every": epochs} if stage.config.eval_every >= stage.config.epochs > 1 else {}
        stages.append(Stage(name=stage.name, given={**stage.given, "epochs": epochs, **every}))
    return recipe.model_copy(update={"stages": tuple(stages)})


def trainings(recipe: Recipe, run: Path, init: Path | None = None, skip: int = 0) -> list[Training]:
    """The stages in their order. The last one is trained into ``run``, the ones before beside it: ``RUN.STAGE``.

    Args:
        init: what the first of them starts from.
        skip: stages at the beginning that are left out.
    """
    place = run if run.name not in ("", "..") else run.resolve()
    result: list[Training] = []
    for stage in recipe.stages[skip:]:
        folder = run if stage is recipe.stages[-1] else place.with_name(f"{place.name}.{stage.name}")
        result.append(Training(stage.name, stage.config, folder, result[-1].run if result else init))
    return result
