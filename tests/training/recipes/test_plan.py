"""What following a recipe takes, from the pictures to the proof, and that the documentation says the same."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.cli.recipe_run import reckoned
from detheads.training.recipes.plan import COCO_IMAGES, Place, Work, plan
from detheads.training.recipes.recipe import library
from tests.docs.pages import COMMANDS, PAGES

PAGE = PAGES["docs/reproduce.md"]
PUBLISHED = 200e12
"""Operations a second that the page reckons with."""


@pytest.fixture(scope="module")
def planned() -> Callable[..., list[Work]]:
    """The plan of a recipe for COCO; what a backbone computes is counted once for each recipe."""
    known: dict[str, Any] = {}

    def make(name: str, **otherwise: Any) -> list[Work]:
        recipe = library()[name]
        if name not in known:
            known[name] = reckoned(recipe, 80)
        place = Place(Path("coco"), Path("reproduction"), **otherwise)
        return plan(recipe, name, place, COCO_IMAGES, *known[name])

    return make


@pytest.mark.parametrize("name", library())
def test_the_page_has_every_command_of_every_recipe(name: str, planned: Callable[..., list[Work]]) -> None:
    shown = [words for block in PAGE.blocks if block.language in COMMANDS for words in block.commands()]
    for work in planned(name):
        assert ["detheads", *work.words] in shown, work.line


@pytest.mark.parametrize("name", library())
def test_the_page_has_sizes_and_times_of_every_recipe(name: str, planned: Callable[..., list[Work]]) -> None:
    recipe = library()[name]

    def of(verb: str, works: list[Work]) -> tuple[int, int]:
        chosen = [work for work in works if work.words[0] == verb]
        return sum(work.bytes for work in chosen), sum(work.flops for work in chosen)

    (features, caching), (_, training) = (of(verb, planned(name)) for verb in ("cache", "train"))
    turned = of("cache", planned(name, turned=True))[0]
    (row,) = re.findall(rf"^\| `{name}` \| (\d.*) \|$", PAGE.text, flags=re.MULTILINE)
    assert row.split(" | ")[:4] == [
        f"{features / 1e9:.0f} GB",
        f"{turned / 1e9:.0f} GB" if recipe.features.flips else "no flips",
        f"{caching / PUBLISHED / 60:.0f} min",
        f"{training / PUBLISHED / 60:.0f} min",
    ]
    said = recipe.published
    assert said and re.search(rf"\| `{name}` \| {said.parameters:,} \| {said.AP:.2f}", PAGE.text)


def test_a_plan_says_what_is_there_and_counts_what_is_left(
    planned: Callable[..., list[Work]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = Path("reproduction/val-eupe_vitb16-640")
    cache.mkdir(parents=True)
    (cache / "manifest.json").touch()
    done = {str(work.makes): work.done for work in planned("coco_640_fcos") if work.makes}
    assert [name for name, there in done.items() if there] == [str(cache)]


def test_int8_and_turned_features_each_take_half(planned: Callable[..., list[Work]]) -> None:
    full, half, turned = (
        next(work for work in planned("coco_768_split_tower", **how) if work.words[0] == "cache")
        for how in ({}, {"dtype": "int8"}, {"turned": True})
    )
    assert full.bytes == 118_287 * 2 * 2 * 768 * 48 * 48
    assert half.bytes == pytest.approx(full.bytes / 2, rel=0.01)
    assert turned.bytes == full.bytes / 2
    assert {full.makes, half.makes, turned.makes} == {
        Path("reproduction/train-eupe_vitb16-768-flips"),
        Path("reproduction/train-eupe_vitb16-768-flips-int8"),
        Path("reproduction/train-eupe_vitb16-768"),
    }
