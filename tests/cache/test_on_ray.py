"""A cache built by two real workers of Ray, of which one is killed: the bytes of one process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cache.conftest import HEIGHT, VIT, WIDTH, contents, write_dataset
from tests.ray_workers import kill_a_worker, start

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="needs the ray extra")

PICTURES = 600
"""Three shards of at most 256 images, whatever their size."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("many") / "pictures", PICTURES)


@pytest.fixture(scope="module")
def line(pictures: Path) -> list[object]:
    words = ["cache", "build", pictures, "--random-weights", "--backbone", VIT, "--size", f"{HEIGHT}x{WIDTH}"]
    return [*words, "--threads", 1, "--batch", 2, "--json"]


def test_two_workers_of_which_one_is_killed_write_the_bytes_of_one_process(
    line: list[object], pictures: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    alone = detheads(*line, "-o", tmp_path / "alone")
    assert alone.code == 0, alone.err
    cache = tmp_path / "shared"
    run = start(*line, "-o", cache, "--workers", 2)
    kill_a_worker(run, lambda: bool(list(tmp_path.glob("shared.parts/part-*"))), doing="work")
    printed, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert "is done again: its worker died" in " ".join(said.split())
    assert json.loads(printed) == json.loads(alone.out) | {"cache": str(cache)}
    assert contents(cache) == contents(tmp_path / "alone")
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "shared"}

    again = detheads(*line, "-o", cache, "--workers", 2)  # nothing is left to do, and no cluster is started for it
    assert json.loads(again.out)["extracted"] == 0
    assert contents(cache) == contents(tmp_path / "alone")
    picture = pictures / "train" / "plain-0.png"
    before = picture.read_bytes()
    Image.new("RGB", (100, 60), "green").save(picture)
    refused = detheads(*line, "-o", cache, "--workers", 2)
    picture.write_bytes(before)
    assert refused.code == 1
    assert "the pictures are others now" in refused.err


def test_a_build_that_was_killed_goes_on_with_another_number_of_workers(
    line: list[object], tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    cache = tmp_path / "cache"
    line = [*line, "--precision", "bf16"]  # which reaches the workers
    run = start(*line, "-o", cache, "--workers", 2)
    kill_a_worker(run, lambda: bool(list(tmp_path.glob("cache.parts/part-*/shard-*.json"))))
    run.kill()
    run.communicate(timeout=60)
    assert not cache.exists()
    done = detheads(*line, "-o", cache, "--workers", 1)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["resumed"] > 0
    assert answer["images"] == answer["resumed"] + answer["extracted"] == PICTURES
    assert detheads(*line, "-o", tmp_path / "alone").code == 0
    assert contents(cache) == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers", 2, "--part", "1/2"], "--workers divides a whole build by itself"),
        (["--address", "auto"], "--address without workers on Ray"),
        (["--workers", 1, "--device", "cuda"], "--device cuda and --gpus-per-worker 0 do not belong together"),
        (["--workers", 1, "--gpus-per-worker", 1], "a worker needs 1 CPUs and 1 GPUs, and no machine of the cluster"),
        (["--workers", 1, "--address", "127.0.0.1:9"], "there is no Ray cluster at 127.0.0.1:9"),
    ],
)
def test_what_cannot_be_built_is_one_sentence_and_leaves_nothing(
    options: list[object], sentence: str, line: list[object], tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    finished = detheads(*line, "-o", tmp_path / "cache", *options)
    assert (finished.code, sentence in finished.err) == (1, True), finished.err
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_read_is_told_by_its_name(tmp_path: Path, detheads: Callable[..., Any]) -> None:
    data = write_dataset(tmp_path / "set")
    (data / "train" / "plain-4.png").write_bytes(b"no picture")
    line = ["cache", "build", data, "--random-weights", "--backbone", VIT, "--size", f"{HEIGHT}x{WIDTH}", "--json"]
    finished = detheads(*line, "-o", tmp_path / "cache", "--workers", 1, "--retries", 0)
    assert finished.code == 1
    assert "part 1 of 1 was given up" in finished.err
    assert "plain-4.png" in finished.err
    kept = detheads(*line, "-o", tmp_path / "cache", "--workers", 1, "--skip-bad")
    assert kept.code == 0, kept.err
    assert [Path(path).name for path in json.loads(kept.out)["left_out"]] == ["plain-4.png"]
