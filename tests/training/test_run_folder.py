"""Whose run a folder holds, whose features a cache holds: every mismatch is one sentence and exit code 1."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from detheads.evaluation.coco import Statistics
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.headkit.contract import Head
from detheads.training.checkpoint import KIND, build_head, load_checkpoint, load_tensors, save_checkpoint
from detheads.training.record import RECORD_NAME
from detheads.training.sealed import write_sealed
from detheads.training.trainer import Trainer
from tests.training.world import World

Make = Callable[..., Trainer]


@pytest.fixture
def run(trainer: Make) -> Path:
    return trainer(epochs=1, eval_every=1).fit().run


@pytest.fixture
def train(world: World, detheads: Callable[..., Any]) -> Callable[..., Any]:
    """``detheads train fcos`` on two of the world's caches."""

    def call(cache: str, val: str, run: Path, *options: object) -> Any:
        narrow = ("-O", "width=16", "-O", "tower_blocks=1", "--epochs", 1, "--batch", 4, "--lr", 2e-3)
        caches = ("--cache", world.caches / cache, "--val", world.caches / val)
        return detheads("train", "fcos", *caches, "-o", run, *narrow, *options)

    return call


def _assert_one_sentence(finished: Any, *parts: str) -> None:
    assert finished.code == 1
    assert finished.result == ""
    (line,) = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert finished.err.splitlines()[-1] == line
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("cache", "val", "parts"),
    [
        ("train", "square", ("differ in their input width (128 and 96)", "--size")),
        ("train", "other", ("differ in their backbone (effnet_lite0 and timm:test_vit)",)),
        ("train", "fewer", ("have different classes: only ", "caches/train has ", " and 2 more; give both")),
        ("absent", "val", ("absent holds no feature cache; make one with 'detheads cache build'",)),
    ],
)
def test_caches_that_do_not_belong_together_are_refused(
    cache: str, val: str, parts: tuple[str, ...], train: Callable[..., Any], tmp_path: Path
) -> None:
    _assert_one_sentence(train(cache, val, tmp_path / "run"), *parts)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_configuration_is_refused_and_left_alone(run: Path, train: Callable[..., Any]) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for options, sentence in (
        (("--lr", 0.5), "was trained with --lr 0.002, now 0.5; give the same, or another folder with -o"),
        (("-O", "width=32"), "was trained with -O width=16, now 32; give the same, or another folder with -o"),
        (("--seed", 7), "was trained with --seed 0, now 7"),
        (
            ("--epochs", 9),
            "was trained with --epochs 1, now 9; give the same, or another folder with -o (more epochs: ",
        ),
    ):
        _assert_one_sentence(train("train", "val", run, *options), str(run), sentence)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_folder_of_another_cache_is_refused(run: Path, train: Callable[..., Any]) -> None:
    finished = train("plain", "val", run, "--epochs", 1, "--eval-every", 1)
    _assert_one_sentence(finished, "was trained on another cache (--cache); give that one, or another folder with -o")


def test_a_foreign_folder_is_refused_and_left_alone(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    _assert_one_sentence(train("train", "val", tmp_path / "mine"), "is not empty and holds no training run")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_what_a_kill_left_behind_does_not_make_a_folder_foreign(trainer: Make) -> None:
    job = trainer(epochs=1, eval_every=1)
    job.run.mkdir()
    (job.run / ".config.4711.partial.json").write_text("{")
    assert job.fit().best_epoch == 1


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--epochs", 0, "epochs must be at least 1"),
        ("--batch", -1, "batch must be at least 1"),
        ("--lr", "nan", "lr must be positive"),
        ("--weight-decay", -1, "weight_decay must be 0 or more"),
        ("--weight-decay", "nan", "weight_decay must be 0 or more"),
        ("--ema-decay", 1.5, "ema_decay must be between 0 and 1"),
        ("--seed", -1, "seed must be a whole number from 0"),
        ("--seed", 2**70, "seed must be a whole number from 0"),
        ("-O", "width", "a head option reads NAME=VALUE, not 'width'"),
        ("-O", "width=wide", "option width of head fcos must be a whole number above 0, not wide"),
        ("--device", "abacus", "the device 'abacus' cannot be used here"),
    ],
)
def test_numbers_out_of_range_are_refused(
    option: str, value: object, sentence: str, train: Callable[..., Any], tmp_path: Path
) -> None:
    _assert_one_sentence(train("train", "val", tmp_path / "run", option, value), sentence)
    assert not (tmp_path / "run").exists()


def test_checkpoints_are_safetensors_with_a_json_description(run: Path) -> None:
    for which in ("best", "last"):
        with safe_open(run / f"{which}.safetensors", framework="pt") as file:
            assert set(file.metadata()) == {"detheads"}
            assert list(file.keys())
    assert not [path for path in run.iterdir() if path.read_bytes()[:2] in (b"PK", b"\x80\x02")]


def test_best_is_the_head_of_the_best_evaluation_and_last_the_one_at_the_end(
    trainer: Make, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[dict[str, torch.Tensor]] = []

    def falling(head: Head, *arguments: Any, **options: Any) -> Statistics:
        evaluated.append({name: value.clone() for name, value in head.state_dict().items()})
        return replace(evaluate_cache(head, *arguments, **options), AP=1 / len(evaluated))

    monkeypatch.setattr("detheads.training.trainer.evaluate_cache", falling)
    result = trainer(epochs=2, eval_every=1).fit()
    assert (result.best_epoch, result.metrics["AP"], len(evaluated)) == (1, 1.0, 2)
    for which, expected in zip(("best", "last"), evaluated, strict=True):
        checkpoint = load_checkpoint(result.run, which)  # type: ignore[arg-type]
        head = build_head(checkpoint)
        assert not head.training
        assert all(torch.equal(value, expected[name]) for name, value in head.state_dict().items())
        assert checkpoint.metrics["AP"] == 1.0
        assert [category.id for category in checkpoint.categories] == [3 + 7 * (1 + i) for i in range(10)]
        assert checkpoint.feature_spec == world.cache("train").feature_spec
        assert checkpoint.checkpoint_sha256 == atomic.sha256_of(result.run / f"{which}.safetensors")
    assert any(not torch.equal(value, evaluated[1][name]) for name, value in evaluated[0].items())


DAMAGE = dict.fromkeys(("empty", "cut", "noise"), "is damaged") | {
    "foreign": "is another kind of file",
    "bit": "is damaged (its checksum differs)",
    "no checksum": "has no checksum: it was altered, or an earlier version wrote it",
    "nan": "holds weights that are not finite",
    "nonsense": "feature_spec.main: Field required",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", ["best", "last"])
def test_a_damaged_checkpoint_is_one_sentence(
    which: str, damage: str, run: Path, world: World, detheads: Callable[..., Any], train: Callable[..., Any]
) -> None:
    path = run / f"{which}.safetensors"
    content = path.read_bytes()
    description, tensors = load_tensors(path)
    first = next(name for name in tensors if name.endswith("classes.weight"))
    if damage == "foreign":
        save_file({"a": torch.zeros(2)}, path)
    elif damage == "bit":
        path.write_bytes(content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
    elif damage == "no checksum":
        save_file(tensors, path, {KIND: json.dumps(description)})
    elif damage == "nan":
        write_sealed(path, KIND, description, tensors | {first: tensors[first] * torch.nan})
    elif damage == "nonsense":
        write_sealed(path, KIND, description | {"feature_spec": {"layers": []}}, tensors)
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "noise": b"\x91" * 500}[damage])
    evaluate = ("eval", run, "--cache", world.caches / "val", "--which", which)
    _assert_one_sentence(detheads(*evaluate), str(path), "is not the file that the run finished with")
    (run / RECORD_NAME).unlink()
    _assert_one_sentence(detheads(*evaluate), str(path), DAMAGE[damage], "train ")
    if which == "last":
        _assert_one_sentence(train("train", "val", run, "--eval-every", 1), str(path), DAMAGE[damage])


def test_weights_that_do_not_fit_the_recorded_head_are_one_sentence(run: Path) -> None:
    checkpoint = load_checkpoint(run)
    checkpoint.tensors.pop("level_scales")
    save_checkpoint(run / "best.safetensors", checkpoint)
    (run / RECORD_NAME).unlink()
    with pytest.raises(UserError, match=r"do not fit head fcos: .*level_scales"):
        build_head(load_checkpoint(run))


def test_a_run_without_checkpoints_says_how_to_get_one(
    world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    finished = detheads("eval", tmp_path / "nowhere", "--cache", world.caches / "val")
    _assert_one_sentence(finished, "nowhere does not exist; train a head")


def test_the_last_weights_of_a_run_hold_the_optimiser_too(run: Path) -> None:
    names = load_file(run / "last.safetensors").keys()
    assert {name.partition(".")[0] for name in names} == {"live", "ema", "ema_count", "optimizer"}
    parameters = sum(1 for _ in build_head(load_checkpoint(run, "last")).parameters())
    for prefix, suffix in (("live.", ""), ("ema.", ""), ("optimizer.", ".exp_avg"), ("optimizer.", ".exp_avg_sq")):
        assert sum(name.startswith(prefix) and name.endswith(suffix) for name in names) == parameters, (prefix, suffix)
