"""A recipe beside the other options of a command line, which win over it and are told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from detheads.cli.output import remark
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.training.launch import launched
from detheads.training.recipes.following import overridden
from detheads.training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from detheads.backbones.text import Embeddings
    from detheads.cache.reader import FeatureCache

PARAMETERS = {"compile": "compile_head"}
"""Options whose function parameter is called otherwise."""


def head_of(recipe: Recipe | None, head: str | None) -> str:
    """The head that is to be trained.

    Raises:
        UserError: when none is named, or another one than the recipe's.
    """
    if recipe is None and head is None:
        raise UserError("name a head of 'detheads heads list' to train, or follow a recipe with --recipe.")
    if recipe is not None and head not in (None, recipe.head):
        raise UserError(
            f"the recipe {recipe.name} trains {recipe.head}, not {head}; leave the head out, or change a copy of the "
            "recipe ('detheads recipe show')."
        )
    return recipe.head if recipe else str(head)


def typed(context: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that were typed, and do not have their default."""
    sources = {name: context.get_parameter_source(PARAMETERS.get(name, name)) for name in options}
    return {name: value for name, value in options.items() if getattr(sources[name], "name", "") == "COMMANDLINE"}


def resolved(
    recipe: Recipe,
    training: Mapping[str, Any],
    head: Mapping[str, Any],
    text: Path | None,
    extend: Sequence[int] | None,
) -> Recipe:
    """The recipe with what the command line says otherwise, which is remarked upon.

    Raises:
        UserError: when the recipe cannot be followed so.
    """
    if extend:
        raise UserError("--extend is of a run without a recipe; give a stage of the recipe more epochs instead.")
    changed, sentences = overridden(recipe, training, head)
    if changed.text is not None and text is None:
        wanted = f"--model {changed.text.model} --pretrained {changed.text.pretrained} --prompts {changed.text.prompts}"
        raise UserError(
            f"the recipe {recipe.name} compares with class embeddings; make them with 'detheads text embed --data "
            f"DATASET {wanted} -o FILE.npz' and give --text FILE.npz, or learn the classes with -O prototypes=learned."
        )
    if launched().rank == 0:
        remark(*sentences)
    return changed


def departures(recipe: Recipe, cache: "FeatureCache", embeddings: "Embeddings | None") -> list[str]:
    """What the inputs are otherwise than the recipe was written for, in sentences."""
    sentences, settings, meant = [], cache.manifest.settings, recipe.features
    here = f"{settings.backbone} at {sides(settings.height, settings.width)}"
    there = f"{meant.backbone} at {sides(meant.size, meant.size)}"
    if here != there:
        sentences.append(f"the recipe was written for features of {there}, and these are of {here}")
    made = embeddings.encoder if embeddings else None
    if recipe.text is not None and made is not None:
        wanted = recipe.text.model, recipe.text.prompts
        found = made.name.removesuffix("-quickgelu"), len(made.prompts)
        if wanted != found:
            sentences.append(
                f"the recipe was written for text of {wanted[0]} with {wanted[1]} prompts, and this is of {found[0]} "
                f"with {found[1]}"
            )
    return sentences
