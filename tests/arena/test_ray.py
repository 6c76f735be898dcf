"""A real Ray cluster of two workers on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from detheads.arena.run import Where, choose, run_arena
from detheads.foundation.errors import UserError
from tests.arena.conftest import BUDGET
from tests.arena.heads import write_faulty, write_head
from tests.training.world import World

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_heads")]

ray = pytest.importorskip("ray", reason="needs the ray extra")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "auto"])
def test_an_address_without_a_cluster_is_one_sentence(address: str, world: World, folder: Path) -> None:
    chosen = choose("fcos", [("width", "16")])
    with pytest.raises(UserError, match=rf"there is no Ray cluster at {address} .* start one with 'ray start'"):
        run_arena(chosen, world.caches / "train", world.caches / "val", folder, BUDGET, where=Where(ray=address))


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
    files = [write_head(tmp_path, "plain"), write_faulty(tmp_path, "is_killed"), write_faulty(tmp_path, "raises")]
    chosen = choose("fcos", [("fcos.width", "16"), ("fcos.tower_blocks", "1")], files)
    caches = world.caches / "train", world.caches / "val"
    where = Where(threads=1, ray=cluster)
    rows = {row.head: row for row in run_arena(chosen, *caches, folder, BUDGET, where=where, measure_latency=False)}
    assert {head: row.status for head, row in rows.items()} == {
        "fcos": "done",
        "plain": "done",
        "is_killed": "failed",
        "raises": "failed",
    }
    assert "the Ray worker died" in str(rows["is_killed"].error)
    assert "the idea does not work" in str(rows["raises"].error)
    local = run_arena(chosen, *caches, tmp_path / "local", BUDGET, measure_latency=False)
    again = {row.head: row for row in local}
    assert rows["fcos"].metrics == again["fcos"].metrics
