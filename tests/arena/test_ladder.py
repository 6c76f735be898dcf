"""Recipes that differ by one step each, trained on the same data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from detheads.arena.ladder import Rung, Watch, climb, rungs_of
from detheads.arena.ladder_page import page_lines
from detheads.foundation.errors import UserError
from detheads.training import trainer as trainer_module
from detheads.training.recipes.recipe import Features, Published, Recipe, Stage, Text, ladder
from detheads.training.status import TrainResult
from detheads.training.trainer import Trainer
from tests.training.world import NARROW, World

CACHES = [Path("small"), Path("large")]
TEXTS = [Path("b32.npz"), Path("l14.npz")]


def _rungs(caches: Sequence[Path], texts: Sequence[Path]) -> list[Rung]:
    return rungs_of(ladder(), caches, [Path(f"{path}-val") for path in caches], texts, {}, {})


def test_each_step_gets_the_caches_of_its_size_and_the_text_of_its_encoder() -> None:
    rungs = _rungs(CACHES, TEXTS)
    assert [(rung.train[0].name, rung.val.name, rung.text and rung.text.stem) for rung in rungs] == [
        *[("small", "small-val", "b32")] * 2,
        *[("small", "small-val", "l14")] * 2,
        *[("large", "large-val", "l14")] * 2,
    ]
    assert not any(rung.remarks for rung in rungs)


def test_one_cache_and_no_text_serve_all_steps_and_are_remarked_upon() -> None:
    rungs = _rungs(CACHES[:1], [])
    assert {rung.train for rung in rungs} == {(Path("small"),)}
    assert {rung.recipe.options["prototypes"] for rung in rungs} == {"learned"}
    assert {rung.remarks for rung in rungs} == {("learned prototypes instead of text", "one input size for all steps")}


@pytest.mark.parametrize(
    ("caches", "texts", "said"),
    [
        ([*CACHES, Path("huge")], TEXTS, "the recipes name 2 input sizes (640, 768 px)"),
        (CACHES, [*TEXTS, Path("more.npz")], "the recipes name 2 text encoders (ViT-B-32 with 1 prompts, ViT-L-14"),
    ],
)
def test_other_numbers_of_caches_or_texts_are_refused(caches: list[Path], texts: list[Path], said: str) -> None:
    with pytest.raises(UserError) as refused:
        _rungs(caches, texts)
    assert said in str(refused.value)


def _recipe(name: str, published: float, *stages: dict[str, Any], text: Text | None = None) -> Recipe:
    usual = {"epochs": 1, "batch": 5, "sweep": 1, "hold_out": 3}
    return Recipe(
        name=name,
        about=name,
        head="split_tower",
        options={**NARROW["split_tower"], "prototypes": "learned"},
        features=Features(size=96),
        text=text,
        stages=tuple(Stage(name=f"s{place}", given=usual | stage) for place, stage in enumerate(stages)),
        published=Published(source="nobody", AP=published),
    )


STEPS = (
    _recipe("plain", 10.0, {"flips": 0.0}),
    _recipe("mirrored", 12.5, {"flips": 0.5}),
    _recipe("calibrated", 12.75, {"flips": 0.5}, {"train_only": ["cls_calib"], "lr": 0.1}),
)


def test_steps_are_trained_once_each_compared_by_seed_and_told(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "plot_log", lambda run: None)  # which takes longest
    trained: list[tuple[str, int]] = []

    def on_stage(name: str, trainer: Trainer) -> TrainResult:
        trained.append((name, trainer.config.seed))
        return trainer.fit()

    train, val = ([world.caches / split] for split in ("train", "val"))
    rungs = rungs_of(STEPS, train, val, [], {}, {})
    rows = climb(rungs, folder, (0, 1), device="cpu", readers=1, watch=Watch(on_stage))
    assert trained == [
        *(("plain", 0), ("plain", 1), ("mirrored", 0), ("mirrored", 1)),
        *(("calibrated, s1", 0), ("calibrated, s1", 1)),  # its first stage is the step above
    ]
    plain, mirrored, calibrated = rows
    assert plain.gain == []
    assert mirrored.gain == [after - before for after, before in zip(mirrored.AP, plain.AP, strict=True)]
    assert calibrated.gain == [after - before for after, before in zip(calibrated.AP, mirrored.AP, strict=True)]
    assert [row.epochs for row in rows] == [1, 1, 2]

    written = json.loads((folder / "ladder.json").read_text("utf-8"))
    assert written["rows"] == [row.model_dump() for row in rows]
    page = (folder / "ladder.md").read_text("utf-8")
    assert "| mirrored | 12.5 | +2.50 |" in page
    assert "| calibrated | 12.75 | +0.25 |" in page
    assert page.splitlines() == page_lines(rows, (0, 1))

    with pytest.raises(UserError, match="was trained with --batch 5, now 4"):
        climb(rungs_of(STEPS, train, val, [], {"batch": 4}, {}), folder, (0,), device="cpu")
    with pytest.raises(UserError, match="seeds 1, 1 hold one twice"):
        climb(rungs, folder, (1, 1), device="cpu")


def test_what_a_later_step_lacks_is_told_before_the_first_is_trained(world: World, folder: Path) -> None:
    plain, val = [world.caches / "plain"], [world.caches / "val"]
    for rungs, said in (
        (rungs_of(ladder()[:2], plain, val, [], {}, {}), "holds no mirrored images"),
        (rungs_of(STEPS, plain, val, [], {}, {"hiden": "8"}), "Did you mean 'hidden'?"),
    ):
        with pytest.raises(UserError) as refused:
            climb(rungs, folder, (0,), device="cpu")
        assert said in str(refused.value)
        assert not folder.exists()
