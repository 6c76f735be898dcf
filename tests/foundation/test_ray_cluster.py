"""Parts on a real Ray of two workers: what is killed or fails is done again, and how far it is can be seen."""

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from detheads.foundation import ray_cluster
from detheads.foundation.errors import UserError
from detheads.foundation.ray_cluster import Stopped, Tell, Workers, run_parts

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="needs the ray extra")


def prepare(folder: Path) -> Callable[[str, Tell], str]:
    """A worker whose parts are named after what becomes of them; it notes the beginning of each."""
    held = f"opened by {os.getpid()}"

    def work(part: str, tell: Tell) -> str:
        with (folder / part).open("a", encoding="utf-8") as begun:
            begun.write("begun\n")
        times = (folder / part).read_text(encoding="utf-8").count("begun")
        if part == "dies at first" and times == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if part == "fails at first" and times == 1:
            raise OSError(errno.EIO, "the network is down")
        if part == "always fails":
            raise UserError("there is nothing here.")
        if part == "is slow":
            tell(3, 4)
            time.sleep(2.5)
        return f"{part}, {held}"

    return work


def shows_its_card() -> Callable[[int, Tell], tuple[str, str]]:
    def work(part: int, tell: Tell) -> tuple[str, str]:
        time.sleep(1)
        return os.environ["CUDA_VISIBLE_DEVICES"], str(os.getpid())

    return work


def dies() -> Callable[[str, Tell], str]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def tells_figures() -> Callable[[str, Tell], str]:
    """Parts that tell how well they do, until they are stopped or let."""

    def work(part: str, tell: Tell) -> str:
        try:
            for done in range(600):
                tell(done, 600, 0.1 if part == "bad" else 0.9)
                if part != "bad" and done == 30:
                    return "done"
                time.sleep(0.1)
        except Stopped:
            return "stopped"
        raise AssertionError("nobody stopped it")

    return work


def fills_disk() -> Callable[[str, Tell], str]:
    def work(part: str, tell: Tell) -> str:
        raise OSError(errno.ENOSPC, "no space")

    return work


def unable() -> Callable[[str, Tell], str]:
    raise UserError("the bundle is not there.")


@pytest.mark.usefixtures("machines")
def test_a_part_that_is_hopeless_by_what_it_tells_is_stopped_and_no_other() -> None:
    asked: set[tuple[str, float]] = set()
    results: dict[str, str] = {}

    def is_hopeless(part: str, done: int, total: int, figure: float) -> bool:
        asked.add((part, figure))
        return figure < 0.5

    def on_part(part: str, failure: str, result: str) -> None:
        results[part] = failure or result

    run_parts(tells_figures, ["bad", "good"], Workers(2), on_part, is_hopeless=is_hopeless)
    assert results == {"bad": "stopped", "good": "done"}
    assert asked == {("bad", 0.1), ("good", 0.9)}


@pytest.mark.usefixtures("machines")
def test_each_part_is_done_once_although_a_worker_is_killed_and_one_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Ray of its own, whatever cluster runs on this machine already."""
    monkeypatch.setattr(ray_cluster, "RETRY_SECONDS", 0.1)
    parts = ["plain", "dies at first", "fails at first", "always fails", "is slow", "plain too"]
    results: dict[str, str] = {}
    failures: dict[str, str] = {}
    far: set[tuple[str, int, int]] = set()
    remarks: list[str] = []

    def on_part(part: str, failure: str, result: Any) -> None:
        assert part not in results | failures
        (failures if failure else results)[part] = failure or result

    run_parts(
        partial(prepare, tmp_path),
        parts,
        Workers(2, retries=1),
        on_part,
        on_far=lambda *told: far.add(told),
        on_remark=remarks.append,
        name=str,
    )
    assert failures == {"always fails": "there is nothing here."}
    assert sorted(results) == sorted(set(parts) - set(failures))
    openers = {result.partition(", opened by ")[2] for result in results.values()}
    assert 2 <= len(openers) <= 3  # two workers and the one that took the killed one's place
    assert all(result.startswith(f"{part}, ") for part, result in results.items())
    assert far == {("is slow", 3, 4)}
    again = {remark.partition(" is done again: ")[0]: remark for remark in remarks}
    assert sorted(again) == ["always fails", "dies at first", "fails at first"]
    assert "its worker died" in again["dies at first"]
    assert "the network is down" in again["fails at first"]


def loses_its_machine(folder: Path) -> Callable[[str, Tell], str]:
    """A worker whose first part waits until its machine is gone, whose process it names."""

    def work(part: str, tell: Tell) -> str:
        begun = folder / "begun"
        if not begun.exists():
            begun.write_text(str(os.getppid()), encoding="utf-8")
            time.sleep(600)
        return part

    return work


@pytest.fixture
def machines() -> Iterator[Any]:
    """A cluster without a processor, to which a test adds machines."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def test_workers_share_the_cards_that_are_asked_for(machines: Any) -> None:
    """Cards that Ray is told of: it hands out their numbers whether they are there or not."""
    machines.add_node(num_cpus=8, num_gpus=2)
    seen: list[tuple[str, str]] = []
    run_parts(
        shows_its_card,
        range(8),
        Workers(8, machines.address, gpus=0.5),
        lambda part, failure, result: seen.append(result),
    )
    cards = {worker: card for card, worker in seen}
    assert len(seen) == 8
    assert set(cards.values()) == {"0", "1"}
    assert max(Counter(cards.values()).values()) <= 2  # eight workers were asked for, and there is room for four


def test_the_part_of_a_machine_that_is_gone_is_done_on_another(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "RETRY_SECONDS", 0.1)
    for _ in range(2):
        machines.add_node(num_cpus=1)
    begun = tmp_path / "begun"

    def switch_off() -> None:
        while not (begun.exists() and begun.read_text("utf-8")):
            time.sleep(0.1)
        os.kill(int(begun.read_text("utf-8")), signal.SIGKILL)

    remarks: list[str] = []
    done: list[str] = []
    with ThreadPoolExecutor(1) as thread:
        switched_off = thread.submit(switch_off)
        run_parts(
            partial(loses_its_machine, tmp_path),
            ["one", "two"],
            Workers(1, machines.address, retries=1),
            lambda part, failure, result: done.append(failure or result),
            on_remark=remarks.append,
            name=str,
        )
        switched_off.result()
    assert sorted(done) == ["one", "two"]
    assert [remark.partition(":")[0] for remark in remarks] == ["one is done again"]


@pytest.mark.parametrize(
    ("prepare", "workers", "error", "sentence"),
    [
        (dies, Workers(1), UserError, "3 workers died while they started"),
        (unable, Workers(1), UserError, "a worker does not start: the bundle is not there"),
        (fills_disk, Workers(1), OSError, "the disk is full"),
        (unable, Workers(1, gpus=1), UserError, "a worker needs 1 CPUs and 1 GPUs, and no machine of the cluster"),
        (unable, Workers(1, "127.0.0.1:9"), UserError, "there is no Ray cluster at 127.0.0.1:9"),
        (unable, Workers(1, "auto"), UserError, "there is no Ray cluster at auto .* start one with 'ray start'"),
    ],
)
def test_what_no_retry_cures_ends_all(
    prepare: Callable[[], Any], workers: Workers, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        run_parts(prepare, ["part"], workers, lambda *outcome: None)
