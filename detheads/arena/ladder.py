"""A ladder: recipes that differ by one step each, trained on the same data, beside what their source says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detheads import __version__
from detheads.arena.ladder_page import Row, page_lines
from detheads.backbones.text import read_embeddings
from detheads.cache.joined import open_caches
from detheads.cache.reader import FeatureCache
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.headkit import registry
from detheads.ops.devices import pick_device
from detheads.training.caches import as_mirrored, require_trainable
from detheads.training.checkpoint import build_head, load_checkpoint
from detheads.training.distributed import Processes
from detheads.training.recipes.follow import follow
from detheads.training.recipes.following import overridden
from detheads.training.recipes.recipe import Recipe, Text
from detheads.training.status import TrainResult
from detheads.training.trainer import Trainer

LADDER_NAME = "ladder.json"
PAGE_NAME = "ladder.md"
PERCENT = 100
"""AP is in percent here, as in the source's tables."""


@dataclass(frozen=True)
class Rung:
    """One recipe of a ladder with what it trains on.

    Attributes:
        train, val: feature caches; several are one training set.
        text: class embeddings, where the recipe compares with some.
        remarks: what is otherwise than the recipe says, in sentences.
    """

    recipe: Recipe
    train: tuple[Path, ...]
    val: Path
    text: Path | None
    remarks: tuple[str, ...] = ()

    def key(self, stages: int) -> tuple[Any, ...]:
        """What is trained by its first stages: equal ones give equal weights, whatever the recipes are called."""
        options = tuple(sorted((name, repr(value)) for name, value in self.recipe.options.items()))
        configs = tuple(stage.config for stage in self.recipe.stages[:stages])
        return self.recipe.head, options, self.train, self.val, self.text, configs

    def seeded(self, seed: int) -> "Rung":
        """The rung with another seed in all its stages."""
        return replace(self, recipe=overridden(self.recipe, {"seed": seed}, {})[0])


@dataclass(frozen=True)
class Reached:
    """What one training reached. AP in percent; ``seconds``: of its own stages, not of those an earlier rung did."""

    run: Path
    parameters: int
    AP: float
    AP50: float
    AP_soft: float
    seconds: float


@dataclass(frozen=True)
class Watch:
    """What is told while a ladder is climbed: ``on_stage`` trains, ``on_row`` hears of each finished rung."""

    on_stage: Callable[[str, Trainer], TrainResult] = lambda name, trainer: trainer.fit()
    on_row: Callable[[Row], None] = lambda row: None


def rungs_of(
    recipes: Sequence[Recipe],
    caches: Sequence[Path],
    vals: Sequence[Path],
    texts: Sequence[Path],
    training: Mapping[str, Any],
    head: Mapping[str, Any],
) -> list[Rung]:
    """Give each recipe its caches and embeddings.

    Args:
        caches, vals: one pair for all recipes, or one for each input size that they name, the smallest first.
        texts: embeddings for all recipes, or for each encoder that they name, in the order in which they name them;
            without any the heads learn their classes.
        training, head: options that take the place of the recipes' (see
            :func:`~detheads.training.recipes.following.overridden`).

    Raises:
        UserError: when the numbers do not fit, or an option makes a recipe impossible.
    """
    names = [recipe.name for recipe in recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"the ladder names the recipe {twice} twice; name each once.")
    sizes = sorted({recipe.features.size for recipe in recipes})
    encoders = list(dict.fromkeys(recipe.text for recipe in recipes if recipe.text))
    if len(caches) != len(vals):
        raise UserError(f"{len(caches)} of --cache and {len(vals)} of --val; give them in pairs.")
    if len(caches) not in {1, len(sizes)}:
        raise UserError(
            f"the recipes name {len(sizes)} input sizes ({', '.join(map(str, sizes))} px); give one pair of --cache "
            f"and --val for all, or one for each, not {len(caches)}."
        )
    if len(texts) not in {0, 1, len(encoders)}:
        raise UserError(
            f"the recipes name {len(encoders)} text encoders ({', '.join(map(_called, encoders))}); give one --text "
            f"for all, one for each, or none, not {len(texts)}."
        )
    rungs = []
    for recipe in recipes:
        place = sizes.index(recipe.features.size) if len(caches) > 1 else 0
        text, remarks = None, []
        if recipe.text is not None and texts:
            text = texts[encoders.index(recipe.text) if len(texts) > 1 else 0]
        elif recipe.text is not None:
            recipe, _ = overridden(recipe, {}, {"prototypes": "learned"})
            remarks.append("learned prototypes instead of text")
        if len(caches) < len(sizes):
            remarks.append("one input size for all steps")
        if text is not None and 1 == len(texts) < len(encoders):
            remarks.append("one encoder for all steps")
        recipe, said = overridden(recipe, training, head)
        rungs.append(Rung(recipe, (caches[place],), vals[place], text, (*remarks, *said)))
    return rungs


def climb(
    rungs: Sequence[Rung],
    folder: Path,
    seeds: Sequence[int],
    *,
    device: str = "",
    readers: int | None = None,
    watch: Watch | None = None,
) -> list[Row]:
    """Train every rung with every seed, and write ``ladder.json`` and ``ladder.md``; started again it goes on.

    A training that an earlier rung has done, alone or as its first stage, is not done again.

    Raises:
        UserError: when the caches do not fit the recipes, seeds repeat, or the folder holds a run of another training.
    """
    watch = watch or Watch()
    if len(set(seeds)) < len(seeds):
        raise UserError(f"the seeds {', '.join(map(str, seeds))} hold one twice; name each once.")
    for rung in rungs:
        _require_inputs(rung)
    place, done = pick_device(device), dict[Any, Reached]()
    rows: list[Row] = []
    above: dict[int, Any] = {}
    for rung in rungs:
        found, gains, seconds = [], [], 0.0
        for seed in seeds:
            seeded = rung.seeded(seed)
            key = seeded.key(len(seeded.recipe.stages))
            if key not in done:
                done[key] = _train(seeded, folder / f"{rung.recipe.name}.seed{seed}", done, place, readers, watch)
                seconds += done[key].seconds
            if seed in above and above[seed] != key:
                gains.append(done[key].AP - done[above[seed]].AP)
            above[seed] = key
            found.append(done[key])
        rows.append(_row(rung, found, gains, seconds))
        watch.on_row(rows[-1])
        _write(folder, rows, seeds)
    return rows


def _require_inputs(rung: Rung) -> None:
    """Refuse what a later step could not use before an earlier one takes its hours."""
    train = open_caches(rung.train)
    require_trainable(train, FeatureCache(rung.val))
    for stage in rung.recipe.stages:
        as_mirrored(train, stage.config.mirror)
    if rung.text is not None:
        read_embeddings(rung.text).of(train.dataset.class_names)
    registry.config_dict(registry.entry(rung.recipe.head), rung.recipe.options)


def _train(
    rung: Rung,
    run: Path,
    done: Mapping[Any, Reached],
    device: torch.device,
    readers: int | None,
    watch: Watch,
) -> Reached:
    """Train a rung, from where an earlier one got to."""
    recipe, seconds = rung.recipe, 0.0
    skip = next((count for count in range(len(recipe.stages) - 1, 0, -1) if rung.key(count) in done), 0)

    def fit(stage: str, trainer: Trainer) -> TrainResult:
        nonlocal seconds
        result = watch.on_stage(f"{recipe.name}, {stage}" if len(recipe.stages) > 1 else recipe.name, trainer)
        seconds += result.seconds
        return result

    val = FeatureCache(rung.val)
    result = follow(
        recipe,
        open_caches(rung.train),
        val,
        run,
        fit,
        processes=Processes(device),
        embeddings=read_embeddings(rung.text) if rung.text else None,
        init=done[rung.key(skip)].run if skip else None,
        skip=skip,
        readers=readers,
    )
    head = build_head(load_checkpoint(run)).to(device)
    softly = evaluate_cache(head, val, use_soft_nms=True, batch_size=recipe.stages[-1].config.batch).require_ap()
    ap, ap50 = (PERCENT * result.metrics[name] for name in ("AP", "AP50"))
    return Reached(run, result.parameters, ap, ap50, PERCENT * softly, seconds)


def _row(rung: Rung, found: Sequence[Reached], gains: Sequence[float], seconds: float) -> Row:
    recipe, remarks = rung.recipe, list(rung.remarks)
    if found and not seconds:
        remarks.append("the same training as a step before")
    spec = FeatureCache(rung.val).feature_spec
    return Row(
        recipe=recipe.name,
        change=recipe.step.change if recipe.step else recipe.about,
        published=recipe.published,
        AP=[one.AP for one in found],
        AP50=[one.AP50 for one in found],
        AP_soft=[one.AP_soft for one in found],
        gain=list(gains),
        parameters=found[0].parameters,
        epochs=recipe.epochs,
        input=sides(spec.height, spec.width),
        minutes=seconds / 60,
        remarks=remarks,
    )


def _write(folder: Path, rows: Sequence[Row], seeds: Sequence[int]) -> None:
    """The table as JSON, and as a page."""
    document = {"detheads_version": __version__, "seeds": list(seeds), "rows": [row.model_dump() for row in rows]}
    atomic.write_json(folder / LADDER_NAME, document)
    atomic.write_text(folder / PAGE_NAME, "\n".join(page_lines(rows, seeds)) + "\n")


def _called(text: Text) -> str:
    return f"{text.model} with {text.prompts} prompts"
