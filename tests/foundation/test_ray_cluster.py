"""Parts on a real Ray of two workers: what is killed or fails is done again, and how far it is can be seen."""

import errno
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from detheads.foundation import ray_cluster
from detheads.foundation.errors import UserError
from detheads.foundation.ray_cluster import Tell, Workers, run_parts

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


def dies() -> Callable[[str, Tell], str]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fills_disk() -> Callable[[str, Tell], str]:
    def work(part: str, tell: Tell) -> str:
        raise OSError(errno.ENOSPC, "no space")

    return work


def unable() -> Callable[[str, Tell], str]:
    raise UserError("the bundle is not there.")


def test_each_part_is_done_once_although_a_worker_is_killed_and_one_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
