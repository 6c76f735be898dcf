"""Training in two processes, which gloo connects, against the same training in one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.training import trainer as trainer_module
from detheads.training.distributed import Processes, together
from detheads.training.launch import Launch, launched, one_voice
from detheads.training.log import read_log
from detheads.training.sweep import read_sweep
from tests.training.pair import Job, environment, odd_gradients, second_process
from tests.training.world import World

HEADS = ("fcos", "split_tower", "sparse_query", "centernet")
"""Of each way in which objects meet predictions one: by geometry, by statistics of it, by matching, and as heat."""
OTHERS = sorted({name for name, entry in registry.trainable().items() if not entry.head.blocks} - set(HEADS))
CONFIG = {"epochs": 2, "batch": 3, "eval_every": 2, "lr": 1e-3}
"""Ten images: batches of three are shared as two and one, and the last, of one image, is taken by both processes."""
EVEN = CONFIG | {"batch": 4}
"""The last batch has an image for each process, as a head has to have it that keeps sums of all that it saw."""
SWEPT = CONFIG | {"sweep": 2}
"""Of the ten images one is held out; all processes hear from the first one what the sweep found."""
CONFIGS = {"prototype": EVEN, "centernet": SWEPT}
ROUNDED = {"relational_corners": 2e-3}
"""Heads that take more maxima than others: which of two nearly equal values wins, and with it where gradients go, is up
to the rounding of another batch size. In float64 the gradients of one and two processes agree to 1e-6."""
STEPS = 8
KILLED_AT = 6


@dataclass(frozen=True)
class Pairs:
    """What two processes made, one thing after the other.

    Attributes:
        gradients, terms: as :func:`odd_gradients` gives them.
        runs: a folder with a run for each head, and ``killed``, in which the second process killed itself.
        sentence: what the first one said of that.
    """

    gradients: list[Tensor | None]
    terms: Tensor
    runs: Path
    sentence: str


@pytest.fixture(autouse=True)
def every_step_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 1)
    monkeypatch.setattr(trainer_module, "plot_log", lambda run: None)


def _job(head: str, world: World, run: Path, killed_at: int = 0) -> Job:
    return Job(head, str(world.caches), str(run), CONFIGS.get(head, CONFIG), killed_at)


def _pairs(world: World, runs: Path, heads: tuple[str, ...] | list[str]) -> Pairs:
    jobs = [_job(head, world, runs / head) for head in heads]
    jobs.append(_job("fcos", world, runs / "killed", KILLED_AT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "LOG_EVERY", 1)
        patch.setattr(trainer_module, "SAVE_SECONDS", -1.0)
        patch.setattr(trainer_module, "plot_log", lambda run: None)
        with second_process(jobs, patch) as child, pytest.raises(UserError) as ended, together("cpu") as processes:
            gradients, terms = odd_gradients(processes)
            for job in jobs:
                job.trainer(processes).fit()
    assert child.returncode == -9, child.stderr
    return Pairs(gradients, terms, runs, str(ended.value))


@pytest.fixture(scope="module")
def pairs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return _pairs(world, tmp_path_factory.mktemp("pairs"), HEADS)


def _losses(run: Path) -> list[dict[str, Any]]:
    entries = [entry for entry in read_log(run) if "loss" in entry]
    return [{name: value for name, value in entry.items() if name.startswith("loss")} for entry in entries]


def _assert_same_curve(one: Path, other: Path, within: float = 1e-4) -> None:
    first, second = _losses(one), _losses(other)
    assert len(first) == len(second) > 0
    for before, after in zip(first, second, strict=True):
        assert after == pytest.approx(before, rel=within, abs=within)


def _assert_same_run(head: str, world: World, pairs: Pairs, folder: Path) -> None:
    alone = _job(head, world, folder).trainer().fit()
    _assert_same_curve(alone.run, pairs.runs / head, ROUNDED.get(head, 1e-4))
    one, other = ([entry["AP"] for entry in read_log(run) if "AP" in entry] for run in (folder, pairs.runs / head))
    assert one == pytest.approx(other, abs=1e-3)
    alone_looks, looks = read_sweep(folder), read_sweep(pairs.runs / head)
    assert [point.step for point in looks] == [point.step for point in alone_looks]
    assert [point.live for point in looks] == pytest.approx([point.live for point in alone_looks], abs=1e-3)
    assert len(looks) == CONFIGS.get(head, CONFIG).get("sweep", 0)
    assert {path.name for path in folder.iterdir()} == {path.name for path in (pairs.runs / head).iterdir()}


@pytest.mark.parametrize("head", HEADS)
def test_two_processes_learn_as_one_does_with_the_same_batch(
    head: str, pairs: Pairs, world: World, tmp_path: Path
) -> None:
    _assert_same_run(head, world, pairs, tmp_path / "alone")


@pytest.mark.slow
def test_two_processes_learn_every_head_as_one_does(world: World, tmp_path: Path) -> None:
    pairs = _pairs(world, tmp_path / "pairs", OTHERS)
    for head in OTHERS:
        _assert_same_run(head, world, pairs, tmp_path / head)


def test_a_gradient_that_one_process_lacks_counts_as_zero_and_one_that_all_lack_stays_none(pairs: Pairs) -> None:
    both, one, none = pairs.gradients
    assert both is not None
    assert torch.equal(both, torch.full((2, 3), 1.5))
    assert one is not None
    assert torch.equal(one, torch.full((2, 3), 4.0))
    assert none is None
    assert pairs.terms.tolist() == [10.0, 10.0]


def test_a_killed_process_ends_the_training_with_a_sentence_and_one_alone_goes_on(pairs: Pairs, world: World) -> None:
    assert pairs.sentence == (
        "one of the 2 processes of the training ended without a word (killed, out of memory, or its machine is gone); "
        "the same command goes on from the last checkpoint."
    )
    run = pairs.runs / "killed"
    assert atomic.read_json(run / "config.json")["processes"] == 2
    steps: list[int] = []
    result = _job("fcos", world, run).trainer().fit(lambda status: steps.append(status.step))
    assert steps[0] in (KILLED_AT, KILLED_AT + 1)
    assert result.remarks == ("begun by 2 processes, gone on by 1: sums of a batch round otherwise",)
    assert len(_losses(run)) == STEPS
    _assert_same_curve(pairs.runs / "fcos", run)


def test_each_batch_is_shared_out_whole() -> None:
    order = [([7, 3, 5, 1], [True, False, False, True]), ([2, 4], [False, True])]
    shares = [Processes(torch.device("cpu"), Launch(rank, 3, rank, 3)).share(order) for rank in range(3)]
    assert [share[0] for share in shares] == [([7, 1], [True, True]), ([3], [False]), ([5], [False])]
    assert all(share[1] == order[1] for share in shares)  # too few images for all
    assert Processes(torch.device("cpu")).share(order) == order


def test_a_batch_smaller_than_the_number_of_processes_is_refused(world: World, tmp_path: Path) -> None:
    four = Processes(torch.device("cpu"), Launch(0, 4, 0, 4))
    with pytest.raises(UserError, match="a batch of 3 images cannot be shared by 4 processes"):
        _job("fcos", world, tmp_path / "run").trainer(four)


def test_processes_with_different_trainings_do_not_train_together(world: World, tmp_path: Path) -> None:
    class Connected(Processes):
        def from_first(self, make: Callable[[], Any]) -> Any:
            return _job("fcos", world, tmp_path / "run").trainer()._described() | {"cache_sha256": "of other boxes"}

    second = Connected(torch.device("cpu"), Launch(1, 2, 1, 2))
    with pytest.raises(UserError, match="process 1 of 2 was given another training than process 0"):
        _job("fcos", world, tmp_path / "run").trainer(second).fit()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changed", [{}, {"LOCAL_RANK": "", "LOCAL_WORLD_SIZE": ""}])
def test_a_launcher_says_which_process_this_is(changed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == Launch(0, 1, 0, 1)
    for name, value in (environment(1, 29500) | changed).items():
        monkeypatch.setenv(name, value)
    assert launched() == Launch(1, 2, 1, 2)
    with pytest.raises(SystemExit) as ended, one_voice():
        raise UserError("what the first process of the machine says")
    assert ended.value.code == 1


@pytest.mark.parametrize("rank", ["2", "-1", "one", "9" * 20])
def test_an_impossible_launch_is_refused(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (environment(1, 29500) | {"RANK": rank}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"processes that cannot be .RANK={rank}, WORLD_SIZE=2"):
        launched()


@pytest.mark.parametrize(
    ("device", "said"), [("cpu:0", "give cpu, and each takes one"), ("nonsense", "cannot be used")]
)
def test_a_device_for_one_process_is_refused_for_several(
    device: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(0, 29500).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said), together(device):
        pass
