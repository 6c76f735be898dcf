"""Batch runs on a real Ray: two workers, of which one is killed in the middle, write what one process writes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.deploy.batch.test_batch import written
from tests.export.toy import Toy
from tests.ray_workers import kill_a_worker, start

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="needs the ray extra")

COPIES = 24
"""Of the toy's pictures: parts enough for a worker to be in the middle of one."""


@pytest.fixture
def photos(toy: Toy, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for copy in range(COPIES):
        shutil.copytree(toy.images, folder / f"{copy:02d}")
    (folder / "00" / "bad.jpg").write_bytes(b"no picture")
    return folder


def parts_done(output: Path, count: int) -> Callable[[], bool]:
    return lambda: len(list(output.glob("parts/*.json"))) >= count


def test_two_workers_of_which_one_is_killed_write_what_one_process_writes(
    bundle: Path, photos: Path, tmp_path: Path, detheads
) -> None:
    options = ("--part-size", 7, "--coco")
    assert detheads("deploy", "batch", bundle, photos, "-o", tmp_path / "one", *options, "--threads", 1).code == 0
    output = tmp_path / "two"
    run = start("deploy", "batch", bundle, photos, "-o", output, *options, "--workers", 2, "--json")
    kill_a_worker(run, parts_done(output, 3))
    printed, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert "is done again: its worker died" in said
    assert json.loads(printed)["unreadable"] == 1
    assert written(output) == written(tmp_path / "one")
    for name in ("detections.json", "images.json"):
        assert (output / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert not list(output.rglob("*.partial*"))


def test_a_driver_that_is_killed_is_followed_by_one_that_does_the_rest(
    bundle: Path, photos: Path, tmp_path: Path, detheads
) -> None:
    output = tmp_path / "two"
    run = start("deploy", "batch", bundle, photos, "-o", output, "--part-size", 7, "--workers", 2)
    others = kill_a_worker(run, parts_done(output, 2))
    run.kill()
    run.communicate(timeout=60)
    psutil.wait_procs(others, timeout=60)  # Ray ends what has lost its driver; the half files of the dead are cleared
    assert not (output / "summary.json").exists()
    done = detheads("deploy", "batch", bundle, photos, "-o", output, "--part-size", 7, "--threads", 1)
    assert done.code == 0, done.err
    assert "parts are done already" in done.err
    assert detheads("deploy", "batch", bundle, photos, "-o", tmp_path / "one", "--part-size", 7).code == 0
    assert {path.name for path in output.glob("parts/*.jsonl")} == {path.name for path in tmp_path.glob("one/parts/*l")}
    assert json.loads((output / "summary.json").read_text("utf-8"))["complete"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--address", "127.0.0.1:9"], "there is no Ray cluster at 127.0.0.1:9"),
        (["--gpus-per-worker", "1", "--backend", "cuda"], "a worker needs 1 CPUs and 1 GPUs, and no machine"),
        (["--backend", "tensorrt"], "a worker does not start: {bundle} has no engine of tensorrt"),
    ],
)
def test_what_ray_cannot_do_is_one_sentence(
    options: list[str], sentence: str, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    run = start("deploy", "batch", bundle, photos, "-o", tmp_path / "out", "--workers", 1, *options)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 1
    assert sentence.format(bundle=bundle) in " ".join(said.split())
    assert "Traceback" not in said
