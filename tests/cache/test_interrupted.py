"""A build that was killed goes on where it stopped; a damaged cache is noticed and mended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.cache import plan
from detheads.cache.reader import FeatureCache
from detheads.foundation import claims
from detheads.foundation.errors import UserError
from tests.cache.conftest import HEIGHT, VIT, WIDTH, contents, write_dataset

SLOW_BUILD = """
import sys, time
from detheads.cache import images, plan
from detheads.cli.main import run

load = images.load_input

def slowly(*arguments):
    time.sleep(0.03)
    return load(*arguments)

images.load_input = slowly
plan.SHARD_BYTES = int(sys.argv[1])
sys.exit(run(sys.argv[2:]))
"""


def written(folder: Path) -> dict[str, int]:
    """When each shard was written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.safetensors")}


def test_a_killed_build_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, build: Callable[..., Any], small_shards: int
) -> None:
    data = write_dataset(tmp_path / "set", count=40)
    cache, whole = tmp_path / "kölled cache", tmp_path / "whole"
    command = ["cache", "build", data, "-o", cache, "--random-weights", "--backbone", VIT, "--batch", 2]
    command += ["--size", f"{HEIGHT}x{WIDTH}", "--flips"]
    process = subprocess.Popen([sys.executable, "-c", SLOW_BUILD, str(2 * plan.SHARD_BYTES), *map(str, command)])
    deadline = time.monotonic() + 240
    while not (cache / "shard-00001.json").exists():
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    recorded = {name: when for name, when in written(cache).items() if (cache / name).with_suffix(".json").exists()}
    assert 2 <= len(recorded) < 14
    assert not (cache / "manifest.json").exists()
    with pytest.raises(UserError, match="holds no finished feature cache; run the same 'detheads cache build' again"):
        FeatureCache(cache)
    (cache / ".shard-00005.99.partial.safetensors").write_bytes(b"what a kill in the middle of a write leaves")

    plan.SHARD_BYTES *= 2  # restored by small_shards
    assert build(data, whole, "--flips").code == 0
    resumed = build(data, cache, "--flips")
    assert resumed.code == 0
    assert json.loads(resumed.out)["resumed"] == 3 * len(recorded)
    assert {name: when for name, when in written(cache).items() if name in recorded} == recorded
    assert contents(cache) == contents(whole)


def test_a_finished_cache_is_left_as_it_is(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any], small_shards: int
) -> None:
    cache = tmp_path / "cache"
    first = json.loads(build(shared_dataset, cache).out)
    stored, times = contents(cache), written(cache)
    second = json.loads(build(shared_dataset, cache).out)
    assert (first["images"], first["resumed"], second["resumed"]) == (10, 0, 10)
    assert (contents(cache), written(cache)) == (stored, times)


def test_a_kill_between_plan_and_annotations_is_mended(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any]
) -> None:
    cache = tmp_path / "cache"
    build(shared_dataset, cache)
    whole = contents(cache)
    for path in cache.iterdir():
        if path.name != "build.json":
            path.unlink()
    (cache / ".annotations.99.partial.json").write_text('{"ima')
    assert build(shared_dataset, cache).code == 0
    assert contents(cache) == whole


def test_what_is_left_of_the_plan_alone_does_not_block_the_folder(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any]
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / ".build.99.partial.json").write_text('{"sett')
    assert build(shared_dataset, cache).code == 0
    assert not list(cache.glob(".*"))


def test_one_flipped_byte_is_found_and_only_its_shard_made_anew(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any], detheads: Callable[..., Any], small_shards: int
) -> None:
    cache = tmp_path / "cache"
    build(shared_dataset, cache)
    whole, times = contents(cache), written(cache)
    assert len(times) == 4
    good = detheads("cache", "verify", cache, "--json")
    assert (good.code, json.loads(good.out)["ok"]) == (0, True)

    shard = cache / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 4
    shard.write_bytes(content)
    verified = detheads("cache", "verify", cache, "--json")
    answer = json.loads(verified.out)
    assert (verified.code, answer["ok"], len(answer["damaged"])) == (1, False, 1)
    assert str(shard) in answer["damaged"][0]
    reader = FeatureCache(cache)
    reader.features([0, 2, 6, 9])
    with pytest.raises(UserError, match=r"shard-00001\.safetensors is damaged"):
        reader.features([4])
    assert json.loads(build(shared_dataset, cache).out)["resumed"] == 7
    assert contents(cache) == whole
    after = written(cache)
    assert {name for name in times if after[name] != times[name]} == {"shard-00001.safetensors"}
    reader.features([4])


DAMAGED_SHARDS: dict[str, Callable[[Path], object]] = {
    "shard missing": lambda cache: (cache / "shard-00002.safetensors").unlink(),
    "shard cut": lambda cache: os.truncate(cache / "shard-00002.safetensors", 1000),
    "shard empty": lambda cache: os.truncate(cache / "shard-00002.safetensors", 0),
    "record missing": lambda cache: (cache / "shard-00002.json").unlink(),
    "record cut": lambda cache: os.truncate(cache / "shard-00002.json", 20),
    "record of another kind": lambda cache: (cache / "shard-00002.json").write_text("[1]"),
    "record of another count": lambda cache: (cache / "shard-00002.json").write_text(
        (cache / "shard-00002.json").read_text().replace('"count": 3', '"count": 2')
    ),
    "record of another shard": lambda cache: (cache / "shard-00002.json").write_bytes(
        (cache / "shard-00001.json").read_bytes()
    ),
}


@pytest.mark.parametrize("case", DAMAGED_SHARDS)
def test_a_damaged_or_missing_shard_is_made_anew(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any], small_shards: int, case: str
) -> None:
    cache = tmp_path / "cache"
    build(shared_dataset, cache)
    whole = contents(cache)
    DAMAGED_SHARDS[case](cache)
    if case.startswith("shard"):
        with pytest.raises(UserError, match=r"shard-00002\.safetensors is (missing|damaged)"):
            FeatureCache(cache).features([8])
    again = build(shared_dataset, cache)
    assert (again.code, json.loads(again.out)["resumed"]) == (0, 7 if case.startswith("shard") else 10)
    assert contents(cache) == whole  # the same features, so that a training on them goes on


def test_a_stray_record_does_not_enter_the_cache(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any]
) -> None:
    cache = tmp_path / "cache"
    build(shared_dataset, cache)
    (cache / "shard-00007.json").write_bytes((cache / "shard-00000.json").read_bytes())
    assert build(shared_dataset, cache).code == 0
    assert len(FeatureCache(cache)) == 10


def test_two_builders_do_not_share_a_folder(shared_dataset: Path, tmp_path: Path, build: Callable[..., Any]) -> None:
    cache = tmp_path / "cache"
    with claims.claimed(cache, plan.CACHE, {}):
        refused = build(shared_dataset, cache)
    assert (refused.code, "another process is building the cache" in refused.err) == (1, True)
    (cache / "build.json").unlink()
    assert build(shared_dataset, cache).code == 0
