"""Training runs from the small caches: repeatable, resumable bit for bit, and stopped cleanly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detheads.evaluation.coco import NAMES
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.training import trainer as trainer_module
from detheads.training.checkpoint import checkpoint_path, load_tensors
from detheads.training.config import TrainConfig
from detheads.training.log import read_log
from detheads.training.status import Status
from detheads.training.trainer import Trainer
from tests.training.conftest import CONFIG
from tests.training.world import World

HEADS = [name for name, entry in registry.trainable().items() if not entry.head.blocks]
RANDOM = {name: {"dropout": 0.4} if "dropout" in registry.defaults(registry.entry(name)) else {} for name in HEADS}
"""Options that make a head draw random numbers while it trains."""
Make = Callable[..., Trainer]


class StopError(Exception):
    """Stands for anything that ends a process between two steps."""


def _stop_at(step: int) -> Callable[[Status], None]:
    def on_step(status: Status) -> None:
        if status.step == step:
            raise StopError

    return on_step


def _tensors(run: Path, which: Any) -> dict[str, Tensor]:
    return load_tensors(checkpoint_path(run, which))[1]


def _assert_same_files(first: Path, second: Path) -> None:
    for which in ("last", "best"):
        one, two = _tensors(first, which), _tensors(second, which)
        assert one.keys() == two.keys()
        assert [name for name in one if not torch.equal(one[name], two[name])] == []


def _evaluations(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in read_log(run) if "AP" in entry]


def test_a_run_leaves_checkpoints_configuration_and_log(trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 2)
    seen: list[Status] = []
    job = trainer()
    result = job.fit(seen.append)
    names = {path.name for path in result.run.iterdir()}
    assert names == {"best.safetensors", "last.safetensors", "config.json", "log.jsonl", "finished.json"}
    assert [status.step for status in seen] == list(range(1, 10))
    assert {status.total_steps for status in seen} == {9}
    assert (seen[0].epoch, seen[-1].epoch, seen[0].best_ap) == (1, 3, None)
    assert seen[-1].best_ap is not None
    entries = [json.loads(line) for line in (result.run / "log.jsonl").read_text("utf-8").splitlines()]
    losses = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in losses] == [2, 4, 6, 8]
    for entry in losses:
        parts = [value for name, value in entry.items() if name.startswith("loss_")]
        assert entry["loss"] == pytest.approx(sum(parts), rel=1e-5)
    pair = (seen[2].loss + seen[3].loss) / 2
    assert losses[1]["loss"] == pytest.approx(pair, rel=1e-6)
    assert [entry["epoch"] for entry in entries if "AP" in entry] == [2, 3]
    assert result.parameters == sum(parameter.numel() for parameter in job.head.parameters())
    assert result.best_epoch in {2, 3}
    config = atomic.read_json(result.run / "config.json")
    assert config["head"]["name"] == "fcos"
    assert config["training"]["lr"] == 2e-3


@pytest.mark.parametrize("head", HEADS)
def test_one_seed_gives_one_result_and_another_seed_another(head: str, trainer: Make) -> None:
    first, second, third = (
        trainer(head, run=run, seed=seed, epochs=2).fit().run for run, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    _assert_same_files(first, second)
    one, other = _tensors(first, "last"), _tensors(third, "last")
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_an_interrupted_run_ends_as_an_uninterrupted_one_bit_for_bit(
    head: str, step: int, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine steps in three epochs; steps 2 and 8 lie inside an epoch, where only a timed checkpoint saves."""
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 3)
    whole = trainer(head, run="whole", head_options=RANDOM[head]).fit().run
    with pytest.raises(StopError):
        trainer(head, run="cut", head_options=RANDOM[head]).fit(_stop_at(step))
    resumed: list[int] = []
    torch.rand(7)  # another process has drawn other random numbers before
    result = trainer(head, run="cut", head_options=RANDOM[head]).fit(lambda status: resumed.append(status.step))
    # The checkpoint of the step at which it stopped was not written yet.
    assert resumed == list(range(step, 10))
    _assert_same_files(whole, result.run)
    assert _evaluations(whole) == _evaluations(result.run)
    steps = [entry["step"] for entry in read_log(result.run)]
    assert steps == [entry["step"] for entry in read_log(whole)]


def test_a_finished_run_only_reports(trainer: Make) -> None:
    first = trainer(epochs=2).fit()
    before = {path.name: path.read_bytes() for path in first.run.iterdir() if path.suffix == ".safetensors"}
    steps: list[Status] = []
    again = trainer(epochs=2).fit(steps.append)
    assert steps == []
    assert again.metrics == first.metrics
    assert {path.name: path.read_bytes() for path in first.run.iterdir() if path.suffix == ".safetensors"} == before


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_killed_process_resumes_to_the_same_bits(
    precision: str, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    """SIGKILL at a random moment after the first checkpoint; the same command finishes the run."""

    def arguments(run: Path) -> list[str]:
        line = f"train fcos -O width=16 -O tower_blocks=1 --epochs 16 --eval-every 8 --batch 4 --threads 1 -o {run}"
        caches = ["--cache", str(world.caches / "train"), "--val", str(world.caches / "val")]
        return [*line.split(), "--precision", precision, *caches, "--json"]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from detheads.cli.main import main; main()", *arguments(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 180
    while not (killed / "last.safetensors").is_file():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = load_tensors(killed / "last.safetensors")[0]["progress"]["step"]
    assert 0 < step < 48
    for run in (killed, whole):
        finished = detheads(*arguments(run))
        assert finished.code == 0, finished.err
        assert json.loads(finished.out)["best_epoch"] in {8, 16}
    _assert_same_files(killed, whole)
    assert _evaluations(killed) == _evaluations(whole)
    assert not list(killed.glob(".*")), "a partial file was left behind"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(trainer: Make) -> None:
    job = trainer(epochs=4, eval_every=1)
    before: dict[str, bytes] = {}

    def poison(status: Status) -> None:
        if status.step == 7:  # inside the third epoch
            before.update({path.name: path.read_bytes() for path in job.run.glob("*.safetensors")})
            with torch.no_grad():
                next(job.head.parameters()).fill_(torch.nan)

    with pytest.raises(UserError, match=r"the loss is not finite at step 7 \(.*\); training stopped") as raised:
        job.fit(poison)
    assert "\n" not in str(raised.value)
    assert set(before) == {"best.safetensors", "last.safetensors"}
    assert {path.name: path.read_bytes() for path in job.run.glob("*.safetensors")} == before
    assert trainer(epochs=4, eval_every=1).fit().run == job.run  # and it can be continued


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(trainer: Make) -> None:
    job = trainer()
    weights = [parameter.detach().clone() for parameter in job.head.parameters()]
    next(job.head.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(UserError, match="the gradient is not finite at step 0"):
        job.fit()
    assert all(torch.equal(old, new) for old, new in zip(weights, job.head.parameters(), strict=True))
    assert not list(job.run.glob("*.safetensors"))


@pytest.mark.parametrize("head", HEADS)
def test_a_huge_learning_rate_is_one_sentence_on_the_command_line(
    head: str, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    finished = detheads("train", head, *caches, "-o", tmp_path / "run", "--lr", "1e30", "--epochs", 3, "--json")
    assert (finished.code, finished.result) == (1, "")
    assert "is not finite at step" in finished.err.splitlines()[-1]
    assert "try a lower --lr" in finished.err.splitlines()[-1]


def test_one_flipped_byte_in_a_shard_is_one_sentence(
    world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    cache = Path(shutil.copytree(world.caches / "train", tmp_path / "cache"))
    shard = next(iter(sorted(cache.glob("*.safetensors"))))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    finished = detheads("train", "fcos", "--cache", cache, "--val", world.caches / "val", "-o", tmp_path / "run")
    assert finished.code == 1
    assert f"error: {shard} is damaged" in finished.err


def test_on_a_cpu_the_automatic_precision_is_float32(trainer: Make) -> None:
    first, second = (trainer(run=kind, precision=kind, epochs=1, eval_every=1).fit().run for kind in ("auto", "fp32"))
    _assert_same_files(first, second)


def test_the_log_holds_numbers_undefined_statistics_and_seconds_that_count_on_after_a_stop(trainer: Make) -> None:
    started = time.monotonic()
    with pytest.raises(StopError):
        trainer(eval_every=1).fit(_stop_at(5))
    before = [entry["seconds"] for entry in read_log(trainer(eval_every=1).run)]
    result = trainer(eval_every=1).fit()
    entries = read_log(result.run)
    assert all(value is None or isinstance(value, int | float) for entry in entries for value in entry.values())
    assert {name for entry in entries for name, value in entry.items() if value is None} <= set(NAMES)
    config = TrainConfig(**(CONFIG | {"eval_every": 1}))
    assert all(entry["lr"] == config.learning_rate(entry["step"] - 1, 9) for entry in entries)
    seconds = [entry["seconds"] for entry in entries]
    assert seconds[: len(before)] == before
    assert seconds[0] > 0 and seconds == sorted(seconds)
    assert seconds[-1] <= result.seconds + 0.01
    assert result.seconds < time.monotonic() - started


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_float32_weights(precision: str, trainer: Make) -> None:
    result = trainer(precision=precision, epochs=1, eval_every=1).fit()
    tensors = _tensors(result.run, "last")
    assert all(value.dtype == torch.float32 for name, value in tensors.items() if name.startswith(("live.", "ema.")))
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_flips_are_taken_only_from_a_cache_that_holds_them(trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[bool]] = {"train": [], "plain": []}
    for name in asked:
        job = trainer(cache=name, run=name, epochs=2, eval_every=2)
        original = job.train_cache.stored

        def spy(indices: Any, flipped: Any, *rest: Any, _name: str = name, _call: Any = original, **more: Any) -> Any:
            asked[_name] += flipped
            return _call(indices, flipped, *rest, **more)

        monkeypatch.setattr(job.train_cache, "stored", spy)
        job.fit()
    assert len(asked["train"]) == len(asked["plain"]) == 4 + 20  # a head is shown the first batch once more
    assert 3 <= sum(asked["train"]) <= 21
    assert not any(asked["plain"])
