"""Runs that go on: extended, started from other weights, or mended where a file is missing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import Statistics
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.training import trainer as trainer_module
from detheads.training.checkpoint import (
    KIND,
    build_head,
    checkpoint_path,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
)
from detheads.training.config import TrainConfig
from detheads.training.log import read_log
from detheads.training.record import RECORD_NAME, read_record
from detheads.training.sealed import write_sealed
from detheads.training.status import Status
from detheads.training.trainer import Trainer
from detheads.training.warm_start import take_over
from tests.training.world import World

Make = Callable[..., Trainer]


def _same(first: Path, second: Path) -> bool:
    pairs = [
        [load_tensors(checkpoint_path(run, which))[1] for run in (first, second)]  # type: ignore[arg-type]
        for which in ("last", "best")
    ]
    return all(torch.equal(one[name], two[name]) for one, two in pairs for name in one)


def test_an_extension_is_a_warm_restart_of_the_rate() -> None:
    config = TrainConfig(lr=1.0, warmup_steps=2)
    rates = [config.rate_at(step, [10, 20]) for step in range(30)]
    assert rates == [config.learning_rate(step, 10) for step in range(10)] + [
        config.learning_rate(step, 20) for step in range(20)
    ]


def test_a_finished_run_that_is_extended_ends_as_one_that_was_from_the_start(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within the extension besides."""
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", -1.0)
    whole = trainer(run="whole", epochs=1, extensions=(1, 1)).fit()
    first = trainer(run="cut", epochs=1).fit()
    assert read_record(first.run).epochs == 1  # type: ignore[union-attr]

    def stop(status: Status) -> None:
        if status.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(run="cut", epochs=1, extensions=(1, 1)).fit(stop)
    assert load_checkpoint(first.run).metrics  # between the two ends it serves as any unfinished run does
    with pytest.raises(UserError, match=r"was extended already; give --extend 1 --extend 1 and then what is to come"):
        trainer(run="cut", epochs=1).fit()
    result = trainer(run="cut", epochs=1, extensions=(1, 1)).fit()
    assert _same(whole.run, result.run)
    assert [entry["epoch"] for entry in read_log(result.run) if "AP" in entry] == [1, 2, 3]
    assert (read_record(result.run).epochs, result.best_epoch) == (3, whole.best_epoch)  # type: ignore[union-attr]


def test_the_command_extends_a_finished_run(world: World, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    line = ("train", "fcos", *caches, "-O", "width=16", "-O", "tower_blocks=1", "--epochs", 1, "-o", tmp_path / "run")
    assert detheads(*line).code == 0
    refused = detheads(*line[:-4], "--epochs", 2, *line[-2:])
    assert "was trained with --epochs 1, now 2" in refused.err
    assert "--epochs 1 --extend N" in refused.err
    extended = detheads(*line, "--extend", 1, "--json")
    assert json.loads(extended.out)["epochs"] == 2, extended.err


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each evaluation of a run is worse than the one before."""
    count = iter(range(1, 100))

    def evaluate(head: Head, *arguments: Any, **options: Any) -> Statistics:
        return replace(evaluate_cache(head, *arguments, **options), AP=1 / next(count))

    monkeypatch.setattr("detheads.training.trainer.evaluate_cache", evaluate)


def test_a_missing_best_is_made_anew_where_the_last_weights_are_the_best(trainer: Make) -> None:
    first = trainer(epochs=1).fit()
    best = checkpoint_path(first.run, "best")
    kept = load_checkpoint(first.run)
    for spoil in (best.unlink, lambda: best.write_bytes(b"noise")):
        spoil()
        again = trainer(epochs=1).fit()
        assert again.metrics == first.metrics
        (mended,) = again.remarks
        assert f"{best} was missing or damaged and was made anew" in mended
        found = load_checkpoint(first.run)
        assert found.metrics == kept.metrics
        assert all(torch.equal(found.tensors[name], value) for name, value in kept.tensors.items())


@pytest.mark.usefixtures("falling")
def test_a_missing_best_of_an_earlier_epoch_is_told_and_nothing_is_lost(trainer: Make) -> None:
    run = trainer(epochs=2, eval_every=1).fit().run
    checkpoint_path(run, "best").unlink()
    with pytest.raises(UserError, match=r"the weights of its epoch 1 are nowhere else; use the last ones"):
        trainer(epochs=2, eval_every=1).fit()
    assert load_checkpoint(run, "last").metrics["epoch"] == 1


def test_a_finished_run_without_its_last_weights_is_not_trained_over(trainer: Make) -> None:
    run = trainer(epochs=1).fit().run
    checkpoint_path(run, "last").unlink()
    before = checkpoint_path(run, "best").read_bytes()
    with pytest.raises(UserError, match=r"a finished run whose last.safetensors is missing, so it cannot go on"):
        trainer(epochs=1).fit()
    assert checkpoint_path(run, "best").read_bytes() == before


def test_the_best_of_another_run_is_refused_by_the_finished_record(trainer: Make) -> None:
    run, other = trainer(run="a", epochs=1).fit().run, trainer(run="b", epochs=1, seed=1).fit().run
    shutil.copy(checkpoint_path(other, "best"), checkpoint_path(run, "best"))
    with pytest.raises(UserError, match=r"best.safetensors is not the file that the run finished with"):
        load_checkpoint(run)


@pytest.mark.parametrize(
    ("progress", "message"),
    [
        ({"step": 99}, "step 99 of 3"),
        ({"step": -1}, "step: Input should be greater than or equal to 0"),
        ({"step": 2.5}, "step: Input should be a valid integer"),
        ({"step": 2}, "its best epoch 1 lies behind its step 2"),
        ({"seconds": "long"}, "seconds: Input should be a valid number"),
        ({"window": [{"loss": 1.0}, {"other": 1.0}]}, "the logged losses have different terms"),
        ({"scaler": 3}, "scaler: Input should be a valid dictionary"),
    ],
)
def test_what_is_impossible_in_the_last_checkpoint_is_one_sentence(
    progress: dict[str, Any], message: str, trainer: Make
) -> None:
    run = trainer(epochs=1).fit().run
    last = checkpoint_path(run, "last")
    _, tensors = load_tensors(last)
    known = load_checkpoint(run, "last")
    save_checkpoint(last, replace(known, progress=known.progress | progress, tensors={}), tensors)
    (run / RECORD_NAME).unlink()
    with pytest.raises(UserError, match=f"last.safetensors cannot be resumed: {message}"):
        trainer(epochs=1).fit()


@pytest.mark.parametrize("spoiled", ["optimizer.0.exp_avg", "optimizer.9999.step", "live.level_scales", "ema_count"])
def test_tensors_that_do_not_fit_are_one_sentence(spoiled: str, trainer: Make) -> None:
    run = trainer(epochs=1).fit().run
    last = checkpoint_path(run, "last")
    _, tensors = load_tensors(last)
    save_checkpoint(last, replace(load_checkpoint(run, "last"), tensors={}), tensors | {spoiled: torch.zeros(2, 7)})
    (run / RECORD_NAME).unlink()
    with pytest.raises(UserError, match=r"last.safetensors cannot be resumed: ") as raised:
        trainer(epochs=1).fit()
    assert "\n" not in str(raised.value)


def test_the_first_log_line_after_a_resume_averages_as_many_steps(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 4)

    def stop(status: Status) -> None:
        if status.step == 3:
            raise KeyboardInterrupt

    whole = trainer(run="whole", epochs=2).fit().run
    with pytest.raises(KeyboardInterrupt):
        trainer(run="cut", epochs=2).fit(stop)
    cut = trainer(run="cut", epochs=2).fit().run
    losses = [[entry["loss"] for entry in read_log(run) if "loss" in entry] for run in (whole, cut)]
    assert losses[0] == losses[1] != []


def test_annotations_alone_are_called_that(trainer: Make, world: World, tmp_path: Path) -> None:
    run = trainer(epochs=1).fit().run
    changed = Path(shutil.copytree(world.caches / "train", tmp_path / "changed"))
    manifest = read_json(changed / "manifest.json")
    path = changed / manifest["annotations"]
    annotations = read_json(path)
    annotations["annotations"].pop()
    atomic.write_json(path, annotations, indent=None)
    manifest["annotations_sha256"] = atomic.sha256_of(path)
    atomic.write_json(changed / "manifest.json", manifest)
    with pytest.raises(UserError, match=r"was trained on other annotations of the same features \(--cache\)"):
        Trainer("fcos", {"width": 16, "tower_blocks": 1}, FeatureCache(changed), world.cache("val"), run, TrainConfig())


def test_training_on_the_validation_pictures_is_remarked_and_recorded(
    world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "val", "--val", world.caches / "val")
    line = ("-O", "width=16", "-O", "tower_blocks=1", "--epochs", 1, "-o", tmp_path / "run", "--json")
    finished = detheads("train", "fcos", *caches, *line)
    assert "5 of the 5 validation pictures are training pictures too" in finished.err
    assert json.loads(finished.out)["validated_on_trained"] == 5
    assert load_checkpoint(tmp_path / "run").validated_on_trained == 5


def test_a_run_from_before_there_was_an_option_of_its_head_goes_on(trainer: Make) -> None:
    """Its record and its checkpoints do not name the option, which had its default."""
    run = trainer(epochs=1).fit().run
    record = read_json(run / "config.json")
    del record["head"]["config"]["dropout"]
    atomic.write_json(run / "config.json", record)
    for which in ("best", "last"):
        path = checkpoint_path(run, which)  # type: ignore[arg-type]
        description, tensors = load_tensors(path)
        del description["head_config"]["dropout"]
        write_sealed(path, KIND, description, tensors)
    (run / RECORD_NAME).unlink()
    with pytest.raises(UserError, match=r"was trained with -O dropout=none, now 0.1"):
        trainer(epochs=1, head_options={"dropout": 0.1})
    assert trainer(epochs=1, extensions=(1,)).fit().metrics["epoch"] in {1, 2}


def test_weights_are_taken_over_by_the_name_of_the_class(trainer: Make) -> None:
    """For every head: the class of each row moves with its name, and all else comes whole."""
    run = trainer(epochs=1).fit().run
    identity = replace(load_checkpoint(run), tensors={})
    for name, entry in registry.trainable().items():
        if entry.head.blocks:
            continue
        config = registry.config_dict(
            entry, {option: 16 for option in ("width", "hidden") if option in registry.defaults(entry)}
        )
        source = replace(identity, head_name=name, head_config=config)
        trained = registry.build(name, source.feature_spec, len(source.categories), config)
        source = replace(source, tensors=trained.state_dict())
        kept = source.categories[3], replace(source.categories[0], name="shark"), source.categories[1]
        target = replace(source, categories=kept, tensors={})
        head = registry.build(name, target.feature_spec, len(kept), config)
        before = {key: value.clone() for key, value in head.state_dict().items()}
        taken = take_over(head, target, source, "elsewhere")
        assert (taken.known, taken.new) == ((kept[0].name, kept[2].name), ("shark",)), name
        by_class = {key for key, value in before.items() if value.shape != source.tensors[key].shape}
        assert by_class, name
        for key, value in head.state_dict().items():
            if key not in by_class:
                assert torch.equal(value, source.tensors[key]), (name, key)
                continue
            axis = next(a for a, size in enumerate(value.shape) if size != source.tensors[key].shape[a])
            for row, other in ((0, 3), (2, 1)):
                assert torch.equal(value.select(axis, row), source.tensors[key].select(axis, other)), (name, key)
            assert torch.equal(value.select(axis, 1), before[key].select(axis, 1)), (name, key)


def test_a_training_starts_from_another_runs_weights_and_options(trainer: Make) -> None:
    first = trainer(run="first", epochs=1).fit().run
    second = trainer(run="second", epochs=1, init=first, narrow={})
    assert second.identity.head_config == load_checkpoint(first).head_config
    source = build_head(load_checkpoint(first)).state_dict()
    assert all(torch.equal(value, source[name]) for name, value in second.head.state_dict().items())
    assert second.started_from is not None
    assert "starts from the weights of" in second.started_from.sentence
    second.fit()
    with pytest.raises(UserError, match=r"did not start from these weights \(--init\)"):
        trainer(run="second", epochs=1)
    again = trainer(run="second", epochs=1, init=checkpoint_path(first, "best"))  # the same weights by another name
    assert again.fit().metrics


def test_weights_that_do_not_fit_name_the_options(trainer: Make) -> None:
    first = trainer(run="first", epochs=1).fit().run
    with pytest.raises(UserError, match=r"do not fit the head here \(.*\); give its options: -O width=16"):
        trainer(run="second", init=first, head_options={"width": 24})
    with pytest.raises(UserError, match=r"has another head \(fcos, here split_tower\)"):
        trainer("split_tower", run="third", init=first)
