"""What a recipe says, and how its file is read. Torch-free, so that a typing mistake is told at once.

A recipe is a TOML file: which head with which options, the features and class embeddings that it is meant for, and one
stage of training or several, each of which starts from the weights of the one before.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from detheads.foundation.entry import Entry
from detheads.foundation.errors import UserError, suggest
from detheads.foundation.reading import TOO_DEEP, read_text
from detheads.foundation.text import json_text
from detheads.training.config import TrainConfig

SUFFIX = ".toml"
LARGEST = 1 << 16
"""Bytes of a recipe's file; the library's have a fortieth of that."""
MOST_STAGES = 16

_BARE = re.compile(r"[A-Za-z0-9_-]+")
"""A key that TOML takes without quotes."""

Sentence = Annotated[str, Field(max_length=200)]
"""Text on one line."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""What may be part of a folder's name."""
Points = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
"""AP in percent, as publications write it."""

_HINTS = get_type_hints(TrainConfig)
_FIELDS: dict[str, Any] = {option.name: (_HINTS[option.name], option.default) for option in fields(TrainConfig)}
_Options: type[BaseModel] = create_model("_Options", __config__=ConfigDict(extra="forbid", strict=True), **_FIELDS)
"""The options of :class:`TrainConfig` as a stage may give them."""


class Features(Entry):
    """What the recipe's caches hold. Other features may be given to it; a remark says so then."""

    backbone: str = "eupe_vitb16"
    size: Annotated[int, Field(ge=1, le=8192)]
    """Side of the square input in pixels."""
    flips: bool = False
    """Whether the training cache holds features of mirrored images."""


class Text(Entry):
    """The encoder of the class embeddings, in the words of ``detheads text embed``."""

    model: str
    pretrained: str = "openai"
    prompts: Annotated[int, Field(ge=1, le=1000)] = 8
    """Averaged for each class."""


class Published(Entry):
    """What the source says that the recipe reaches on COCO's validation split of 2017; AP in percent."""

    source: Sentence
    parameters: Annotated[int, Field(ge=1)] | None = None
    AP: Points
    AP50: Points | None = None
    AP75: Points | None = None
    AP_averaged: Points | None = None
    """Of the averaged weights, where ``AP`` is of the live ones."""
    AP_soft: Points | None = None
    """With soft-NMS."""


class Step(Entry):
    """A recipe's place on the ladder: its lineage, in which each step changes something of the one before."""

    number: Annotated[int, Field(ge=1, le=99)]
    change: Sentence


class Stage(Entry):
    """One training of the recipe."""

    name: Name
    given: dict[str, Any]
    """The options that the file gives; the others have their defaults."""

    @property
    def config(self) -> TrainConfig:
        """All options.

        Raises:
            UserError: when one has an impossible value.
        """
        values: dict[str, Any] = {}
        for key, value in self.given.items():
            values[key] = tuple(value) if isinstance(value, list) else value
        return TrainConfig(**values)


class Recipe(Entry):
    """A whole training. ``name`` is that of its file."""

    name: Name
    about: Sentence
    head: str
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the head; the others have their defaults."""
    features: Features
    text: Text | None = None
    """None: the head learns its classes."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=MOST_STAGES)]
    published: Published | None = None
    step: Step | None = None

    @field_validator("stages")
    @classmethod
    def _are_told_apart(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        names = [stage.name for stage in stages]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two stages are called {twice!r}")
        return stages

    @model_validator(mode="after")
    def _learns_something_first(self) -> "Recipe":
        if self.stages[0].given.get("train_only"):
            raise ValueError("the first stage trains some parameters only, and there is nothing yet to start from")
        return self

    @property
    def epochs(self) -> int:
        """Of all stages."""
        return sum(stage.config.epochs for stage in self.stages)

    def to_toml(self, *, resolved: bool = False) -> str:
        """The recipe as its file says it.

        Args:
            resolved: with the value of every option of its stages, those at their defaults too.
        """
        document = self.model_dump(exclude_none=True, exclude={"name", "stages"})
        lines = [f"# {self.name}"]
        lines += [_line(key, value) for key, value in document.items() if not isinstance(value, dict)]
        for key, value in document.items():
            if isinstance(value, dict) and value:
                lines += ["", f"[{key}]", *(_line(*item) for item in value.items())]
        for stage in self.stages:
            options = {name: getattr(stage.config, name) for name in _HINTS} if resolved else stage.given
            lines += ["", "[[stage]]", _line("name", stage.name), *(_line(*item) for item in options.items())]
        return "\n".join(lines) + "\n"


def library() -> dict[str, Recipe]:
    """The recipes of the package by name, in alphabetical order."""
    folder = resources.files(__package__) / "library"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {recipe.name: recipe for recipe in (_parse(f.read_text("utf-8"), f.name) for f in files)}


def ladder() -> list[Recipe]:
    """The steps of the source's lineage, the first one first."""
    return sorted((recipe for recipe in library().values() if recipe.step), key=_number)


def read_recipe(name: str) -> Recipe:
    """A recipe of the package by its name, or the one in a file ``*.toml``.

    Raises:
        UserError: when there is none; naming the first key that no recipe has, with the closest that it may be, or the
            first value that is not allowed.
    """
    if not name.endswith(SUFFIX):
        known = library()
        if name not in known:
            raise UserError(
                f"there is no recipe {name!r}; see 'detheads recipe list', or give a file that ends in {SUFFIX}."
                f"{suggest(name, known)}"
            )
        return known[name]
    return _parse(read_text(name, LARGEST), name)


def _parse(text: str, source: str) -> Recipe:
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # a package of [train], which the runtime does without
        import tomli as tomllib
    try:
        document = tomllib.loads(text)
        json.dumps(document, allow_nan=False)  # what has no JSON, such as a date, is no value of a recipe
    except RecursionError:
        raise UserError(f"{source} {TOO_DEEP}.") from None
    except TypeError:
        raise UserError(
            f"{source} holds a date or a time, which no value of a recipe is; write text in quotes."
        ) from None
    except ValueError as error:
        raise UserError(f"{source} is not readable TOML ({' '.join(str(error).split())}); repair it.") from None
    stages = document.pop("stage", [])
    _require_known(document, source)
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise UserError(f"{source}: a stage begins with [[stage]], in two pairs of brackets.")
    parsed = [_stage(stage, place, source) for place, stage in enumerate(stages, start=1)]
    values = {**document, "name": Path(source).name.removesuffix(SUFFIX), "stages": parsed}
    try:
        return Recipe.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {_fault(error)}.") from None


def _stage(values: Mapping[str, Any], place: int, source: str) -> dict[str, Any]:
    """A stage as :class:`Stage` takes it, its options of the right types and possible."""
    where = f"{source}, stage {values.get('name', place)}"
    given = {key: value for key, value in values.items() if key != "name"}
    _require_keys(given, ["name", *_HINTS], where)
    try:
        _Options.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {_fault(error)}.") from None
    stage = {"name": values.get("name", f"stage{place}"), "given": given}
    try:
        _ = Stage.model_construct(**stage).config
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return stage


def _require_known(document: Mapping[str, Any], source: str) -> None:
    """Refuse keys that no recipe has; what options a head has it says itself."""
    _require_keys(document, [*(Recipe.model_fields.keys() - {"name", "stages"}), "stage"], source)
    tables: dict[str, type[Entry]] = {"features": Features, "text": Text, "published": Published, "step": Step}
    for table, model in tables.items():
        if isinstance(document.get(table), dict):
            _require_keys(document[table], list(model.model_fields), f"{source}, table {table}")


def _require_keys(given: Mapping[str, Any], known: list[str], where: str) -> None:
    unknown = next((key for key in given if key not in known), None)
    if unknown is not None:
        near = suggest(unknown, known)
        known_ones = "" if near else f"; known are {', '.join(sorted(known))}"
        raise UserError(f"{where}: unknown key {unknown!r}{known_ones}.{near}")


def _fault(error: ValidationError) -> str:
    """The first thing that is wrong, with its place."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _line(key: str, value: Any) -> str:
    """``key = value`` in TOML, whose text, numbers and lists are those of JSON."""
    name = key if _BARE.fullmatch(key) else json_text(key, indent=None)
    return f"{name} = {json_text(value, indent=None)}"


def _number(recipe: Recipe) -> int:
    return recipe.step.number if recipe.step else 0
