"""What a recipe's file says, and what is said of a file that no recipe is."""

from pathlib import Path

import pytest

from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.training.recipes.recipe import Recipe, ladder, library, read_recipe

SMALL = """
about = "two stages"
head = "split_tower"

[options]
hidden = 16

[features]
backbone = "effnet_lite0"
size = 96

[[stage]]
name = "long"
epochs = 3
lr = 1e-3

[[stage]]
name = "short"
epochs = 1
train_only = ["cls_bias"]
"""

MISTAKES = {
    ("epochs = 3", "epohs = 3"): "stage long: unknown key 'epohs'. Did you mean 'epochs'?",
    ("about", "abuot"): "unknown key 'abuot'. Did you mean 'about'?",
    ("size = 96", "size = 96\nflip = true"): "table features: unknown key 'flip'. Did you mean 'flips'?",
    ("size = 96", "size = 96\nzzz = 1"): "unknown key 'zzz'; known are backbone, flips, size.",
    ("epochs = 3", 'epochs = "3"'): "stage long: epochs: ",
    ("epochs = 3", "epochs = 0"): "stage long: epochs must be at least 1, not 0.",
    ("lr = 1e-3", "lr = nan"): "not readable TOML",
    ("lr = 1e-3", "lr = 1979-05-27"): "holds a date or a time",
    ('"short"', '"long"'): "two stages are called 'long'",
    ('"short"', '"../short"'): "stages.1.name: ",
    ('"long"', '"long"\ntrain_only = ["cls_bias"]'): "there is nothing yet to start from",
    ("size = 96", "size = 0"): "features.size: ",
    ('head = "split_tower"', ""): "head: Field required",
    ("[[stage]]", "[stage]"): "not readable TOML",
    ("hidden = 16", f"hidden = {'[' * 2000}"): "",
}


def _written(folder: Path, text: str) -> str:
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _said(recipe: Recipe) -> object:
    return recipe.model_dump(exclude={"name"})


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[1][:24].replace("\n", " "))
def test_a_mistake_is_told_with_its_place(mistake: tuple[str, str], tmp_path: Path) -> None:
    file = _written(tmp_path, SMALL.replace(*mistake))
    with pytest.raises(UserError) as refused:
        read_recipe(file)
    sentence = str(refused.value)
    assert sentence.startswith(file)
    assert MISTAKES[mistake] in sentence
    assert "\n" not in sentence


def test_options_that_are_not_given_have_the_defaults_of_a_training(tmp_path: Path) -> None:
    long, short = (stage.config for stage in read_recipe(_written(tmp_path, SMALL)).stages)
    assert (long.epochs, long.lr, long.batch, long.train_only) == (3, 1e-3, 8, ())
    assert (short.epochs, short.train_only) == (1, ("cls_bias",))


@pytest.mark.parametrize("name", library())
@pytest.mark.parametrize("resolved", [False, True])
def test_what_is_shown_is_a_recipe_that_says_the_same(name: str, resolved: bool, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    again = read_recipe(_written(tmp_path, recipe.to_toml(resolved=resolved)))
    assert [stage.config for stage in again.stages] == [stage.config for stage in recipe.stages]
    if not resolved:
        assert _said(again) == _said(recipe)


def test_a_name_is_suggested_for_one_that_is_nearly_right() -> None:
    with pytest.raises(UserError, match="Did you mean 'coco_640_fcos'"):
        read_recipe("coco_640_fcso")


def test_the_flagship_is_trained_and_calibrated_as_the_source_says() -> None:
    recipe = read_recipe("coco_768_split_tower")
    train, calibration = (stage.config for stage in recipe.stages)
    assert (recipe.head, recipe.features.size, recipe.text and recipe.text.model) == ("split_tower", 768, "ViT-L-14")
    assert (train.epochs, train.batch, train.ema_decay, train.sweep) == (16, 16, 0.9998, 11)
    assert (calibration.epochs, calibration.lr, calibration.train_only) == (3, 1e-4, ("cls_calib",))


def test_each_step_of_the_ladder_changes_what_it_names_and_nothing_else() -> None:
    """Compared as the source's table has them: 36.88, 40.06, 40.89, 41.15, 42.49, 42.64."""
    steps = ladder()
    assert [step.published and step.published.AP for step in steps] == [36.88, 40.06, 40.89, 41.15, 42.49, 42.64]
    changes = [
        {"options.assigner", "features.flips", "flips", "mirror"},
        {"options.pc_init", "text.model", "text.prompts", "ema_decay"},
        {"epochs", "eval_every", "sweep"},
        {"features.size"},
        {"a stage"},
    ]
    for number, wanted in enumerate(changes):
        assert _differences(steps[number], steps[number + 1]) == wanted


def _differences(one: Recipe, other: Recipe) -> set[str]:
    found = set() if len(one.stages) == len(other.stages) else {"a stage"}
    found |= {
        f"{table}.{key}"
        for table in ("options", "features", "text")
        for key, value in dict(getattr(one, table)).items()
        if dict(getattr(other, table))[key] != value
    }
    first, second = (vars(recipe.stages[0].config) for recipe in (one, other))
    return found | {key for key, value in first.items() if second[key] != value}


@pytest.mark.parametrize("name", library())
def test_the_options_of_its_head_exist(name: str) -> None:
    recipe = library()[name]
    made = registry.config_dict(registry.entry(recipe.head), recipe.options)
    assert {key: made[key] for key in recipe.options} == recipe.options
