"""Arenas on real caches, every head in a real process of its own."""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detheads.arena.records import Row, read_row, read_rows, run_folder
from detheads.arena.run import ARENA, Contestants, Where, choose, run_arena
from detheads.evaluation.coco import NAMES
from detheads.evaluation.scores import score_curves
from detheads.foundation import claims
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.report.evaluated import evaluate_run
from detheads.training.checkpoint import load_checkpoint
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer
from tests.arena.conftest import BUDGET
from tests.arena.heads import FAULTS, write_faulty, write_head
from tests.training.world import NARROW, World

NARROW_OPTIONS = [("fcos.width", "16"), ("fcos.tower_blocks", "1")]

pytestmark = pytest.mark.usefixtures("own_heads")


def _run(world: World, folder: Path, contestants: Contestants, **options: Any) -> dict[str, Row]:
    arguments = {"config": BUDGET, "where": Where(processes=2, threads=1), "measure_latency": False} | options
    config = arguments.pop("config")
    rows = run_arena(contestants, world.caches / "train", world.caches / "val", folder, config, **arguments)
    return {row.head: row for row in rows}


@pytest.fixture(scope="module")
def arena(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An arena in which fcos and a head of one's own do well and every other one fails in its own way.

    The processor under two names stands for two cards.
    """
    folder = tmp_path_factory.mktemp("arena")
    files = [write_faulty(folder, name) for name in FAULTS if name != "fills_disk"] + [write_head(folder, "one_map")]
    contestants = choose("fcos,hook_fcos", NARROW_OPTIONS, files)
    where = Where(threads=1, devices=("cpu:0", "cpu:1"))
    _run(world, folder / "arena", contestants, where=where, measure_latency=True)
    return folder / "arena"


def test_every_head_has_a_row_and_the_failed_ones_come_last(arena: Path) -> None:
    rows = read_rows(arena)
    assert {row.head for row in rows} == {"fcos", "hook_fcos", "one_map", *FAULTS} - {"fills_disk"}
    states = [row.status for row in rows]
    assert states == sorted(states)
    done = [row for row in rows if row.status == "done"]
    assert {row.head for row in done} == {"fcos", "one_map"}
    assert done[0].metrics["AP"] >= done[1].metrics["AP"]


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("raises", "the idea does not work"),
        ("diverges", "the loss is not finite at step 0"),
        ("is_killed", "killed by SIGKILL"),
        ("exits", "exit code 7"),
        ("hook_fcos", "reads block2, block5, block8, which these features .* cache build ... --layers 2,5,8"),
    ],
)
def test_a_head_that_fails_becomes_a_row_that_says_why(arena: Path, head: str, reason: str) -> None:
    row = read_row(arena, head)
    assert row is not None
    assert row.status == "failed"
    assert row.error is not None
    assert "\n" not in row.error
    assert re.search(reason, row.error), row.error


def test_the_processes_share_the_devices_out(arena: Path) -> None:
    settings = [json.loads(path.read_text("utf-8")) for path in (arena / "logs").glob("*.json")]
    assert len(settings) == len(read_rows(arena))
    used = [job["device"] for job in settings]
    assert set(used) == {"cpu:0", "cpu:1"}
    assert min(used.count(device) for device in set(used)) > 1


@pytest.mark.usefixtures("one_thread")
def test_a_row_says_what_the_trainer_measures_for_the_same_head(arena: Path, world: World, tmp_path: Path) -> None:
    """Also: one seed gives one result, in a process of its own or not."""
    row = read_row(arena, "fcos")
    assert row is not None
    options = {"width": 16, "tower_blocks": 1}
    caches = world.cache("train"), world.cache("val")
    trained = Trainer("fcos", options, *caches, tmp_path / "run", BUDGET).fit()
    assert row.parameters == trained.parameters
    assert {name: row.metrics[name] for name in NAMES} == {name: trained.metrics[name] for name in NAMES}
    found = evaluate_run(tmp_path / "run", caches[1])
    costs = score_curves(caches[1].dataset.coco_json(), found.detections).at_recall
    assert (row.metrics["precision"], row.metrics["false_detections"]) == (costs.precision, costs.false_detections)
    assert row.options == registry.config_dict(registry.entry("fcos"), options)
    assert set(row.per_class) == set(world.cache("val").dataset.class_names)
    assert row.seconds is not None
    assert row.seconds > 0


def test_the_latency_of_every_trained_head_is_measured(arena: Path) -> None:
    for row in read_rows(arena):
        assert (row.milliseconds is not None) == (row.status == "done")
        assert row.milliseconds is None or 0 < row.milliseconds < 10_000


def test_an_arena_started_again_trains_only_what_is_new_or_to_be_retried(
    world: World, folder: Path, tmp_path: Path
) -> None:
    flaky = write_faulty(tmp_path, "raises")
    _run(world, folder, choose("fcos", NARROW_OPTIONS, [flaky]))
    trained_at = (run_folder(folder, "fcos") / "best.safetensors").stat().st_mtime_ns
    again = _run(world, folder, choose("fcos,split_tower", [*NARROW_OPTIONS, ("hidden", "16"), ("text_dim", "16")]))
    assert set(again) == {"fcos", "split_tower"}
    assert (run_folder(folder, "fcos") / "best.safetensors").stat().st_mtime_ns == trained_at
    write_head(tmp_path, "raises")  # mended
    kept = _run(world, folder, choose("fcos", NARROW_OPTIONS, [flaky]))
    assert kept["raises"].status == "failed"
    retried = _run(world, folder, choose("fcos", NARROW_OPTIONS, [flaky]), retry_failed=True)
    assert retried["raises"].status == "done"


def test_a_killed_arena_goes_on_where_it_stopped_and_its_processes_are_gone(world: World, folder: Path) -> None:
    heads = ["fcos", "split_tower"]
    narrow = [f"-O{name}={value}" for head in heads for name, value in _options(head)]
    command = [sys.executable, "-c", "from detheads.cli.main import main; main()", "arena", "run", "--json"]
    command += ["--heads", ",".join(heads), *narrow, "--epochs", "25", "--batch", "2", "--threads", "1", "--no-latency"]
    command += ["--cache", str(world.caches / "train"), "--val", str(world.caches / "val"), "-o", str(folder)]
    command += ["--eval-every", "1"]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = run_folder(folder, "fcos") / "last.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert checkpoint.is_file()
    started.send_signal(signal.SIGKILL)
    started.wait()
    while _workers(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _workers(folder)
    before = json.loads((run_folder(folder, "fcos") / "log.jsonl").read_text("utf-8").splitlines()[0])
    finished = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    assert {row["head"]: row["status"] for row in answer["rows"]} == dict.fromkeys(heads, "done")
    after = json.loads((run_folder(folder, "fcos") / "log.jsonl").read_text("utf-8").splitlines()[0])
    assert after == before  # the first epoch was not trained twice


def test_a_head_whose_arena_was_killed_meanwhile_has_not_failed(arena: Path, tmp_path: Path) -> None:
    job = json.loads((arena / "logs" / "fcos.json").read_text("utf-8")) | {"arena": str(tmp_path)}
    (tmp_path / "job.json").write_text(json.dumps(job), "utf-8")
    listener, told = os.pipe()
    os.close(listener)
    command = [sys.executable, "-m", "detheads.arena.worker", str(tmp_path / "job.json")]
    ended = subprocess.run(command, stdout=told, stderr=subprocess.PIPE, timeout=100, check=False)
    os.close(told)
    assert (ended.returncode, ended.stderr) == (1, b"")
    assert read_row(tmp_path, "fcos") is None


def _options(head: str) -> list[tuple[str, str]]:
    return [(f"{head}.{name}", str(value)) for name, value in NARROW[head].items()]


def _workers(folder: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"detheads.arena.worker" in (line := path.read_bytes()) and os.fsencode(folder) in line:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--device", "cpu,cpu"], "--device cpu,cpu names one twice"),
        (["--device", "cpu:0,cpu:1", "--jobs", "1"], "--jobs 1 leaves some of the 2 devices idle"),
        (["--device", "cpu,cuda:9"], "the device 'cuda:9' cannot be used here"),
        (["--gpus-per-head", "1"], "give the address of a cluster with --ray"),
        (["--stop-early"], "give the address of a cluster with --ray"),
        (["--stop-early", "--ray", "auto", "--with-controls"], "would leave claims with one side"),
    ],
)
def test_devices_that_make_no_sense_are_one_sentence(
    options: list[str], sentence: str, world: World, folder: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    finished = detheads("arena", "run", *caches, "-o", folder, *options)
    assert (finished.code, sentence in finished.err) == (1, True), finished.err


def test_a_full_disk_ends_the_arena_in_one_sentence_and_leaves_no_row(
    world: World, folder: Path, tmp_path: Path
) -> None:
    contestants = choose("fcos", NARROW_OPTIONS, [write_faulty(tmp_path, "fills_disk")])
    with pytest.raises(UserError, match=r"the disk of .* is full; free some space"):
        _run(world, folder, contestants, where=Where(threads=1))
    assert [row.head for row in read_rows(folder)] == ["fcos"]


def test_a_folder_of_another_arena_is_refused_and_names_what_differs(arena: Path, world: World, tmp_path: Path) -> None:
    fcos = choose("fcos", NARROW_OPTIONS)
    with pytest.raises(UserError, match="with --epochs 1, now with --epochs 2"):
        _run(world, arena, fcos, config=TrainConfig(epochs=2))
    with pytest.raises(UserError, match=r"fcos has run in .* with width=16, not 24"):
        _run(world, arena, choose("fcos", [("width", "24")]))
    with pytest.raises(UserError, match="another train"):
        run_arena(fcos, world.caches / "plain", world.caches / "val", arena, BUDGET)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no arena"):
        _run(world, tmp_path / "mine", fcos)


def test_two_arenas_do_not_run_in_one_folder(arena: Path, world: World, folder: Path) -> None:
    shutil.copytree(arena, folder)
    setting = json.loads((folder / ARENA.record).read_text())
    with (
        claims.claimed(folder, ARENA, setting),
        pytest.raises(UserError, match="another process is running the arena"),
    ):
        _run(world, folder, choose("fcos", NARROW_OPTIONS))


def test_an_option_goes_to_every_head_that_has_it_unless_it_names_one() -> None:
    chosen = choose("fcos,split_tower", [("dropout", "0.25"), ("fcos.width", "32")])
    assert chosen.options == {"fcos": {"dropout": 0.25, "width": 32}, "split_tower": {"dropout": 0.25}}
    assert set(choose("all").options) == set(registry.trainable())


@pytest.mark.parametrize(
    ("heads", "options", "message"),
    [
        ("fcoss", [], "unknown head 'fcoss'; did you mean .*fcos"),
        ("", [], "needs at least one head"),
        ("fcos", [("colour", "1")], "no head of the arena has an option 'colour'"),
        ("fcos", [("split_tower.hidden", "8")], "names a head that takes no part"),
        ("fcos", [("width", "wide")], "option width of head fcos must be a whole number above 0, not wide"),
    ],
)
def test_a_choice_that_makes_no_sense_is_one_sentence(heads: str, options: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(heads, options)


def test_the_command_prints_the_leaderboard_as_one_json_object(
    world: World, folder: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    narrow = [f"-O{name}={value}" for name, value in NARROW_OPTIONS]
    line = ("--heads", "fcos", *narrow, "--epochs", 1, "--threads", 1, "--no-latency", "-o", folder)
    finished = detheads("arena", "run", *caches, *line, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert [row["head"] for row in answer["rows"]] == ["fcos"]
    table = detheads("arena", "run", *caches, *line)  # nothing left to train
    assert f"{answer['rows'][0]['parameters']:,}" in table.out


def test_several_seeds_give_means_with_their_spread(world: World, folder: Path, tmp_path: Path) -> None:
    """Each seed is a run of its own; a head is called better beyond the spread only."""
    (row,) = _run(world, folder, choose("fcos", NARROW_OPTIONS), seeds=(3, 4)).values()
    assert [result.seed for result in row.seeds] == [3, 4]
    aps = [load_checkpoint(run_folder(folder, "fcos", seed)).metrics["AP"] for seed in (None, 4)]
    assert [result.metrics["AP"] for result in row.seeds] == aps
    assert row.metrics["AP"] == pytest.approx(statistics.fmean(aps))
    assert row.spread == pytest.approx(statistics.stdev(aps))
    with pytest.raises(UserError, match="the seeds 3, 3 hold one twice"):
        _run(world, tmp_path / "twice", choose("fcos", NARROW_OPTIONS), seeds=(3, 3))
    with pytest.raises(UserError, match="another seeds"):
        _run(world, folder, choose("fcos", NARROW_OPTIONS), config=replace(BUDGET, seed=3))
