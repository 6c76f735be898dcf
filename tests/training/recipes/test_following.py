"""A recipe is followed stage by stage, with what the command line says otherwise."""

from pathlib import Path

import pytest
import torch

from detheads.foundation.errors import UserError
from detheads.training import trainer as trainer_module
from detheads.training.checkpoint import load_checkpoint
from detheads.training.distributed import Processes
from detheads.training.recipes.follow import follow
from detheads.training.recipes.following import overridden, trainings, with_epochs
from detheads.training.recipes.recipe import Features, Recipe, Stage
from detheads.training.status import TrainResult
from detheads.training.trainer import Trainer
from tests.training.world import NARROW, World

LONG = {"epochs": 6, "batch": 4, "lr": 1e-3, "sweep": 1, "hold_out": 3, "seed": 5}
SHORT = {"epochs": 2, "batch": 4, "lr": 1e-4, "sweep": 1, "hold_out": 3, "seed": 5, "train_only": ["cls_calib"]}
RECIPE = Recipe(
    name="small",
    about="two stages",
    head="split_tower",
    options=NARROW["split_tower"],
    features=Features(size=96),
    stages=(Stage(name="long", given=LONG), Stage(name="short", given=SHORT)),
)


def _epochs(recipe: Recipe) -> list[int]:
    return [stage.config.epochs for stage in recipe.stages]


def test_an_option_replaces_that_of_all_stages_or_of_the_first_where_they_differ() -> None:
    changed, sentences = overridden(RECIPE, {"batch": 2, "epochs": 9, "seed": 5}, {"hidden": "8"})
    assert [(stage.config.batch, stage.config.epochs) for stage in changed.stages] == [(2, 9), (2, 2)]
    assert changed.options["hidden"] == "8"
    assert sentences == [
        "--batch 2 instead of the recipe's 4",
        "--epochs 9 instead of the recipe's 6 (short keeps 2)",
        "-O hidden=8 instead of the recipe's 16",
    ]
    with pytest.raises(UserError, match="small, stage long: batch must be at least 1"):
        overridden(RECIPE, {"batch": 0}, {})


@pytest.mark.parametrize(
    ("given", "epochs"), [({"first": 12}, [12, 4]), ({"scale": 0.5}, [3, 1]), ({"first": 1}, [1, 1])]
)
def test_a_shorter_schedule_keeps_the_proportion_of_the_stages(given: dict[str, int], epochs: list[int]) -> None:
    assert _epochs(with_epochs(RECIPE, **given)) == epochs  # type: ignore[arg-type]


def test_a_stage_that_is_evaluated_at_its_end_stays_so() -> None:
    recipe, _ = overridden(RECIPE, {"eval_every": 6}, {})
    assert [stage.config.eval_every for stage in with_epochs(recipe, first=3).stages] == [3, 1]


def test_the_stages_lie_beside_the_run_that_is_the_last_one() -> None:
    folders = [(stage.run, stage.init) for stage in trainings(RECIPE, Path("a/run"), Path("old"))]
    assert folders == [(Path("a/run.long"), Path("old")), (Path("a/run"), Path("a/run.long"))]


def _follow(recipe: Recipe, world: World, run: Path, taken: list[int]) -> TrainResult:
    def fit(stage: str, trainer: Trainer) -> TrainResult:
        return trainer.fit(lambda status: taken.append(status.step))

    caches = world.cache("train"), world.cache("val")
    return follow(recipe, *caches, run, fit, processes=Processes(torch.device("cpu")))


def test_a_recipe_equals_its_stages_one_by_one_and_goes_on_where_it_was(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "plot_log", lambda run: None)  # which takes longest
    recipe, taken = with_epochs(RECIPE, first=2), list[int]()
    _follow(recipe, world, tmp_path / "run", taken)
    assert taken == [1, 2, 3, 4, 1, 2]
    init = None
    for name, stage in zip(("one", "two"), recipe.stages, strict=True):
        options = NARROW["split_tower"]
        caches = world.cache("train"), world.cache("val")
        init = Trainer("split_tower", options, *caches, tmp_path / name, stage.config, init=init).fit().run
    by_recipe, by_hand = (load_checkpoint(tmp_path / run).tensors for run in ("run", "two"))
    assert all(torch.equal(value, by_hand[name]) for name, value in by_recipe.items())

    _follow(recipe, world, tmp_path / "run", taken)
    assert len(taken) == 6  # all was done
    for run in ("run", "run.long"):
        assert "[[stage]]" in (tmp_path / run / "recipe.toml").read_text("utf-8")


def test_what_a_later_stage_cannot_train_is_told_before_the_first_begins(world: World, tmp_path: Path) -> None:
    stages = RECIPE.stages[0], Stage(name="short", given={**SHORT, "train_only": ["cls_bais"]})
    with pytest.raises(UserError, match="Did you mean 'cls_bias'"):
        _follow(RECIPE.model_copy(update={"stages": stages}), world, tmp_path / "run", [])
    assert not list(tmp_path.iterdir())
