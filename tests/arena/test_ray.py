"""A real Ray cluster of two workers on this machine."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from detheads.arena.pool import Watch
from detheads.arena.records import Row, run_folder
from detheads.arena.report import write_report
from detheads.arena.run import Where, choose, run_arena
from detheads.foundation.ray_cluster import Workers
from detheads.training.log import read_log
from tests.arena.conftest import BUDGET
from tests.arena.heads import write_faulty, write_head
from tests.ray_workers import command, kill_a_worker, start
from tests.training.world import World

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_heads")]

ray = pytest.importorskip("ray", reason="needs the ray extra")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def test_a_cluster_of_two_workers_trains_the_heads_and_survives_one_that_kills_its_worker(
    cluster: str, world: World, folder: Path, tmp_path: Path
) -> None:
    files = [write_head(tmp_path, "one_map"), write_faulty(tmp_path, "is_killed"), write_faulty(tmp_path, "raises")]
    chosen = choose("fcos", [("fcos.width", "16"), ("fcos.tower_blocks", "1")], files)
    caches = world.caches / "train", world.caches / "val"
    remarks: list[str] = []
    steps: set[str] = set()
    watch = Watch(on_step=lambda head, step, total: steps.add(head), on_remark=remarks.append)
    where = Where(ray=Workers(4, cluster, retries=1))
    found = run_arena(chosen, *caches, folder, BUDGET, where=where, measure_latency=False, watch=watch)
    rows = {row.head: row for row in found}
    assert {head: row.status for head, row in rows.items()} == {
        "fcos": "done",
        "one_map": "done",
        "is_killed": "failed",
        "raises": "failed",
    }
    assert "its worker died" in str(rows["is_killed"].error)
    assert [remark.partition(":")[0] for remark in remarks] == ["is_killed is done again"]
    assert "the idea does not work" in str(rows["raises"].error)
    local = run_arena(chosen, *caches, tmp_path / "local", BUDGET, measure_latency=False)
    again = {row.head: row for row in local}
    assert rows["fcos"].metrics == again["fcos"].metrics


def test_a_head_whose_worker_is_killed_goes_on_from_its_checkpoint(
    cluster: str, world: World, folder: Path, tmp_path: Path
) -> None:
    line = ["arena", "run", "--heads", "fcos", "-Owidth=16", "-Otower_blocks=1", "--epochs", "12", "--batch", "2"]
    line += ["--no-latency", "--cache", world.caches / "train", "--val", world.caches / "val", "--json"]
    run = start(*line, "--ray", cluster, "-o", folder)
    checkpoint = run_folder(folder, "fcos") / "last.safetensors"
    kill_a_worker(run, checkpoint.is_file, of=psutil.Process())
    printed, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert "fcos is done again: its worker died" in " ".join(said.split())
    (row,) = json.loads(printed)["rows"]
    evaluated = [entry["epoch"] for entry in read_log(run_folder(folder, "fcos")) if "AP" in entry]
    assert evaluated == list(range(1, 13))
    (alone,) = json.loads(subprocess.check_output(command(*line, "--threads", "1", "-o", tmp_path / "alone")))["rows"]
    assert row["metrics"] == alone["metrics"]


def test_a_head_behind_those_before_it_is_stopped_and_may_be_trained_to_the_end_later(
    cluster: str, world: World, folder: Path, tmp_path: Path
) -> None:
    """The second head sees nothing, and takes its time."""
    pytest.importorskip("ray.tune", reason="needs the tune extra", exc_type=ImportError)
    blind = write_head(tmp_path, "blind", "import time; time.sleep(0.5); x = x * 0")
    caches = world.caches / "val", world.caches / "val"
    config = replace(BUDGET, epochs=8)

    def run(**more: Any) -> dict[str, Row]:
        chosen = choose("fcos", [("fcos.width", "32"), ("fcos.tower_blocks", "1")], [blind])
        where = Where(ray=Workers(1, cluster, retries=0))
        rows = run_arena(chosen, *caches, folder, config, where=where, measure_latency=False, **more)
        return {row.head: row for row in rows}

    rows = run(stop_early=True)
    assert {head: row.status for head, row in rows.items()} == {"fcos": "done", "blind": "stopped"}
    assert re.search(r"after \d+ % of its training its AP of 0\.\d+ was below the median", str(rows["blind"].error))
    page = write_report(folder).page
    assert "stopped: after" in " ".join(page.read_text("utf-8").split())
    assert run(stop_early=True)["blind"] == rows["blind"]
    assert run(retry_failed=True)["blind"].status == "done"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--ray", "auto", "--device", "cuda:0,cuda:1"], "names several, and a worker on Ray has one"),
        (["--ray", "auto", "--device", "cuda"], "--device cuda and --gpus-per-head 0 do not belong together"),
        (["--ray", "auto", "--device", "cpu", "--gpus-per-head", "1"], "do not belong together on Ray"),
    ],
)
def test_devices_that_no_worker_would_use_are_refused(
    options: list[str], sentence: str, world: World, folder: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    finished = detheads("arena", "run", *caches, "-o", folder, *options)
    assert (finished.code, sentence in finished.err) == (1, True), finished.err
