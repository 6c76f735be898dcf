"""What was found whole is not read again, by this process or another, until it changes."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.cache import checked
from detheads.cache.reader import FeatureCache
from detheads.foundation import atomic
from detheads.foundation.errors import UserError


@pytest.fixture
def cache(shared_dataset: Path, tmp_path: Path, build: Callable[..., Any], small_shards: int) -> Path:
    """A finished cache of four shards."""
    assert build(shared_dataset, tmp_path / "cache").code == 0
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read from end to end. Files count as old at once."""
    names: list[str] = []
    digest = atomic.sha256_of

    def spy(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(checked.atomic, "sha256_of", spy)
    monkeypatch.setattr(checked, "YOUNG_NS", 0)
    time.sleep(0.02)  # clocks of file systems tick every few milliseconds
    return names


def shards(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.startswith("shard-"))


def test_a_shard_is_read_whole_once_and_when_it_is_first_asked_for(cache: Path, read: list[str]) -> None:
    opened = FeatureCache(cache)
    assert shards(read) == []
    opened.features([0, 1])
    assert shards(read) == ["shard-00000.safetensors"]
    opened.features(range(len(opened)))
    assert shards(read) == [f"shard-{number:05d}.safetensors" for number in range(4)]
    FeatureCache(cache).features(range(len(opened)))
    assert len(shards(read)) == 4


def test_another_process_need_not_read_it(cache: Path, read: list[str]) -> None:
    code = (
        "import pathlib, sys; from detheads.cache import checked; checked.YOUNG_NS = 0; folder, *pairs = sys.argv[1:];"
        "known = checked.CheckedFiles(pathlib.Path(folder));"
        "assert all(known.has(pathlib.Path(folder, name), sha256) for name, sha256 in (p.split() for p in pairs))"
    )
    mine = FeatureCache(cache)
    mine.features([0])
    pairs = [f"{shard.file} {shard.sha256}" for shard in mine.manifest.shards]
    subprocess.run([sys.executable, "-c", code, str(cache), *pairs], check=True)
    mine.features(range(len(mine)))
    assert shards(read) == ["shard-00000.safetensors"]


@pytest.mark.parametrize("way", ["a bit", "the same bytes anew", "times set back"])
def test_a_file_that_was_touched_is_read_again_and_damage_is_noticed(cache: Path, read: list[str], way: str) -> None:
    FeatureCache(cache).features(range(10))
    shard = cache / "shard-00001.safetensors"
    status, content = shard.stat(), bytearray(shard.read_bytes())
    if way != "the same bytes anew":
        content[-1] ^= 1
    shard.write_bytes(content)
    if way == "times set back":
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    read.clear()
    if way == "the same bytes anew":
        FeatureCache(cache).features(range(10))
    else:
        with pytest.raises(UserError, match=r"shard-00001\.safetensors is damaged"):
            FeatureCache(cache).features(range(10))
    assert shards(read) == [shard.name]


def test_a_copy_is_read_again(cache: Path, read: list[str], tmp_path: Path) -> None:
    FeatureCache(cache).features(range(10))
    copied = Path(shutil.copytree(cache, tmp_path / "copy"))
    read.clear()
    FeatureCache(copied).features(range(10))
    assert len(shards(read)) == 4


def test_a_file_that_was_just_written_is_not_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again under the same time stamp."""
    monkeypatch.setattr(checked, "YOUNG_NS", 10**12)
    FeatureCache(cache).features(range(10))
    assert not (cache / checked.NAME).exists()


def test_verify_reads_whatever_is_remembered(cache: Path, read: list[str], detheads: Callable[..., Any]) -> None:
    FeatureCache(cache).features(range(10))
    read.clear()
    assert detheads("cache", "verify", cache).code == 0
    assert len(shards(read)) == 4


@pytest.mark.parametrize(
    "noise", [b"[1", b"\xff\n{}\n[[]]\nnull\n", b"[" * 5000 + b"\n", b'["shard-00000.safetensors"]\n']
)
def test_noise_in_the_record_is_passed_over(cache: Path, read: list[str], noise: bytes) -> None:
    (cache / checked.NAME).write_bytes(noise)
    FeatureCache(cache).features(range(10))
    assert len(shards(read)) == 4


def test_a_folder_that_takes_no_files_is_read_all_the_same(cache: Path, read: list[str]) -> None:
    (cache / checked.NAME).mkdir()
    for _ in range(2):
        FeatureCache(cache).features(range(10))
    assert len(shards(read)) == 8


def _as_pipe(record: Path, elsewhere: Path) -> None:
    os.mkfifo(record)


def _as_link(record: Path, elsewhere: Path) -> None:
    elsewhere.write_text("export PATH=/bin\n")
    record.symlink_to(elsewhere)


def _as_device(record: Path, elsewhere: Path) -> None:
    record.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_as_pipe, _as_link, _as_device], ids=["pipe", "link", "device"])
def test_nothing_is_written_out_of_the_folder_of_a_cache(
    cache: Path, read: list[str], tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    make(cache / checked.NAME, tmp_path / "elsewhere")
    for reading in (1, 2):
        FeatureCache(cache).features([0])
        assert len(shards(read)) == reading
    if make is _as_link:
        assert (tmp_path / "elsewhere").read_text() == "export PATH=/bin\n"
