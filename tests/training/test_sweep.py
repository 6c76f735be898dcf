"""A sweep late in the schedule: what it looks at, what it judges by, and that it goes on exactly."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detheads.cache.joined import JoinedCache
from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import Statistics
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation.errors import UserError
from detheads.headkit.contract import Head
from detheads.training import trainer as trainer_module
from detheads.training.checkpoint import checkpoint_path, load_checkpoint, load_tensors
from detheads.training.config import TrainConfig
from detheads.training.held_out import divided
from detheads.training.log import read_log
from detheads.training.status import Status
from detheads.training.sweep import read_sweep
from detheads.training.trainer import Trainer
from tests.training.world import World

Make = Callable[..., Trainer]
SWEEP = {"sweep": 3, "hold_out": 3, "epochs": 3, "eval_every": 3}
"""Seven of ten pictures, four a step: six steps, of which 4, 5 and 6 are looked at."""


def _pictures(cache: FeatureCache | None) -> set[str]:
    assert cache is not None
    return {image.sha256 for image in cache.manifest.images}


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Evaluations as they happen, (pictures, AP): the AP is made up, and best where the held-out pictures want it."""
    found: list[tuple[int, float]] = []
    by_held_out = iter([0.1, 0.2, 0.3, 0.7, 0.6, 0.5])  # averaged and live of three looks
    by_val = iter([0.9, 0.4, 0.5, 0.8])

    def evaluate(head: Head, cache: FeatureCache, **options: Any) -> Statistics:
        ap = next(by_held_out if len(cache) == SWEEP["hold_out"] else by_val)
        found.append((len(cache), ap))
        return replace(evaluate_cache(head, cache, **options), AP=ap)

    monkeypatch.setattr(trainer_module, "evaluate_cache", evaluate)
    return found


def test_the_pick_is_that_of_the_held_out_pictures_whatever_the_validation_says(
    trainer: Make, judged: list[tuple[int, float]]
) -> None:
    job = trainer(**SWEEP)
    live: dict[int, dict[str, Tensor]] = {}

    def watch(status: Status) -> None:
        live[status.step] = {name: value.clone() for name, value in job.head.state_dict().items()}

    result = job.fit(watch)
    # The second kind of the second look is the best; the validation cache liked the first pick better.
    assert judged == [(3, 0.1), (3, 0.2), (5, 0.9), (3, 0.3), (3, 0.7), (5, 0.4), (3, 0.6), (3, 0.5), (5, 0.5)]
    pick = {name: result.metrics[name] for name in ("AP", "step", "weights", "held_out_ap", "epoch")}
    assert pick == {"AP": 0.4, "step": 5, "weights": "live", "held_out_ap": 0.7, "epoch": 3}
    best = load_checkpoint(result.run)
    assert all(torch.equal(value, live[5][name]) for name, value in best.tensors.items())
    assert best.metrics["AP"] == 0.4
    assert [(point.step, point.averaged, point.live) for point in read_sweep(result.run)] == [
        (4, 0.1, 0.2),
        (5, 0.3, 0.7),
        (6, 0.6, 0.5),
    ]


def test_no_held_out_picture_is_trained_on(trainer: Make, world: World) -> None:
    job = trainer(**SWEEP)
    learned, held = _pictures(job.train_cache), _pictures(job.held_out)
    assert (len(learned), len(held)) == (7, 3)
    assert learned | held == _pictures(world.cache("train"))
    assert not any(digest[:16] in job.identity.pictures for digest in held)
    assert job.total_steps == 6


def test_the_same_pictures_are_held_out_with_another_seed_and_among_further_ones(world: World) -> None:
    config, train = TrainConfig(sweep=1, hold_out=3), world.cache("train")
    held = _pictures(divided(train, config)[1])
    assert _pictures(divided(train, replace(config, seed=7))[1]) == held
    more = JoinedCache([world.cache("plain"), world.cache("val")])
    both = _pictures(divided(more, replace(config, hold_out=4))[1])
    of_train = both & _pictures(train)
    assert of_train <= held or held <= of_train


def test_equal_pictures_stay_on_one_side(world: World) -> None:
    """A cache with each picture twice: held out are both or none."""
    train = world.cache("train")
    images = train.manifest.images
    twice = train.restricted(train.dataset.categories)
    twice.manifest = train.manifest.model_copy(
        update={"images": tuple(replace(image, sha256=images[place // 2].sha256) for place, image in enumerate(images))}
    )
    learned, held = divided(twice, TrainConfig(sweep=1, hold_out=3))
    assert not _pictures(learned) & _pictures(held)
    assert len(held or ()) == 4


def test_a_tenth_is_held_out_and_no_more_than_coco_validates_by(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    train = world.cache("train")
    assert len(divided(train, TrainConfig(sweep=1))[1] or ()) == 1
    monkeypatch.setattr("detheads.training.held_out.PARTS", 2)
    assert len(divided(train, TrainConfig(sweep=1))[1] or ()) == 5
    monkeypatch.setattr("detheads.training.held_out.MOST_HELD_OUT", 2)
    assert len(divided(train, TrainConfig(sweep=1))[1] or ()) == 2
    assert divided(train, TrainConfig()) == (train, None)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_a_sweep_that_is_interrupted_or_extended_ends_as_one_that_was_not(
    precision: str, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind the first look of the first stretch, finished, and extended by a stretch with looks of its own."""
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", -1.0)
    options = {**SWEEP, "epochs": 2, "precision": precision, "head_options": {"dropout": 0.4}}

    def stop(status: Status) -> None:
        if status.step == 4:
            raise KeyboardInterrupt

    whole = trainer(run="whole", **options, extensions=(1,)).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(run="cut", **options).fit(stop)
    trainer(run="cut", **options).fit()
    cut = trainer(run="cut", **options, extensions=(1,)).fit()
    for which in ("best", "last"):
        one, other = (load_tensors(run.run / f"{which}.safetensors")[1] for run in (whole, cut))
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert cut.metrics == whole.metrics
    assert read_sweep(cut.run) == read_sweep(whole.run)
    assert [point.step for point in read_sweep(cut.run)] == [3, 4, 5, 6]


def test_a_missing_best_is_made_anew_of_the_live_weights_where_those_were_the_best(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = iter([0.1, 0.9])  # averaged and live of the only look, at the end

    def evaluate(head: Head, cache: FeatureCache, **options: Any) -> Statistics:
        return replace(evaluate_cache(head, cache, **options), AP=next(order) if len(cache) == 3 else 0.5)

    monkeypatch.setattr(trainer_module, "evaluate_cache", evaluate)
    options = {**SWEEP, "sweep": 1, "epochs": 1}
    run = trainer(**options).fit().run
    kept = load_checkpoint(run)
    assert kept.metrics["weights"] == "live"
    checkpoint_path(run, "best").unlink()
    (mended,) = trainer(**options).fit().remarks
    assert "was made anew" in mended
    again, live = load_checkpoint(run), load_checkpoint(run, "live")
    assert all(torch.equal(value, again.tensors[name]) for name, value in kept.tensors.items())
    assert all(torch.equal(value, live.tensors[name]) for name, value in kept.tensors.items())


def test_a_start_from_weights_that_know_held_out_pictures_is_told(trainer: Make) -> None:
    first = trainer(run="first", epochs=1).fit().run
    swept = trainer(run="swept", **SWEEP | {"epochs": 1}).fit().run
    assert trainer(run="second", **SWEEP, init=first).held_out_known == 3
    assert trainer(run="third", **SWEEP, init=swept).held_out_known == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hold_out": 10}, r"--hold-out 10 leaves none of the 10 training pictures to train on"),
        ({"sweep": 0}, r"pictures are held out to judge a sweep by; give --sweep, too"),
        ({"sweep": -1}, r"sweep must be 0 or more, not -1"),
        ({"hold_out": -1}, r"hold_out must be 0 or more, not -1"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_sentence(options: dict[str, int], sentence: str, trainer: Make) -> None:
    with pytest.raises(UserError, match=sentence):
        trainer(**{**SWEEP, **options})


def test_the_command_says_what_it_swept_and_kept(world: World, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    caches = ("--cache", world.caches / "plain", "--val", world.caches / "val")
    small = ("-O", "width=16", "-O", "tower_blocks=1", "--epochs", 2, "--batch", 4, "--eval-every", 2)
    line = ("train", "fcos", *caches, *small, "-o", tmp_path / "run", "--sweep", 2, "--hold-out", 2)
    trained = detheads(*line, "--json")
    assert trained.code == 0, trained.err
    assert "2 training pictures are held out, by which the sweep is judged" in trained.err
    answer = json.loads(trained.out)
    assert [point["step"] for point in answer["sweep"]] == [3, 4]
    kept = next(point for point in answer["sweep"] if point["step"] == answer["step"])
    assert answer["held_out_ap"] == kept[answer["weights"]] == max(kept["live"], kept["averaged"])
    assert any("AP" in entry for entry in read_log(tmp_path / "run"))
    again = detheads(*line)
    assert f"at step {answer['step']} ({answer['weights']} weights)" in again.out
    other = detheads(*line[:-3], 3, "--hold-out", 2)
    assert "was trained with --sweep 2, now 3" in other.err
