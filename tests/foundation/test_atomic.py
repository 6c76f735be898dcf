"""Files that are whole or absent."""

import errno
import hashlib
import os
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from detheads.foundation import atomic
from detheads.foundation.atomic import exchange, inside, replacing, sha256_of, try_output, write_json, write_text
from detheads.foundation.claims import new_folder
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "model.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    write_text(path, "old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert (partial.parent, partial.suffix) == (path.parent, ".txt")
    assert path.read_text() == "new"


def test_a_failing_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": "ü"})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": "ü"}


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_unreadable_json_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json"):
        read_json(path)


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "sub/../a.jpg", "ü 1.jpg"])
def test_paths_inside_are_given(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["", "..", "../a.jpg", "sub/../../a.jpg", "/etc/passwd", "link/a.jpg", "a\0b", "loop/a.jpg"]
)
def test_paths_that_leave_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="leaves its folder"):
        inside(folder, name)


def test_digests_are_those_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_names_of_the_longest_length_are_written(tmp_path: Path) -> None:
    for name in ("x" * 251 + ".bin", "狗" * 83 + ".jpeg"):
        write_text(tmp_path / name, "whole")
        assert (tmp_path / name).read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_name_that_is_not_utf8_returns_from_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    write_json(tmp_path / "a.json", {"file_name": name})
    assert rb"caf\udce9.jpg" in (tmp_path / "a.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"file_name": name}


def test_places_that_take_the_result_are_left_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / "new.json", tmp_path / "old.json", tmp_path / "a" / "b" / "new.json"):
        try_output(path, needs=1)
    try_output(tmp_path, folder=True)
    try_output(tmp_path / "a" / "b", folder=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "folder", "sentence"),
    [
        ("folder", False, "is a folder"),
        ("file", True, "is not a folder"),
        ("file/a/b.json", False, "is not a folder"),
        ("x" * 256, False, "longer than 255 bytes"),
        ("狗" * 90 + "/a.json", False, "longer than 255 bytes"),
        ("a\0b", False, "no path may hold"),
        ("loop/a.json", False, "is not a folder"),
        ("/proc/a/b.json", False, "cannot be written"),
    ],
)
def test_places_that_do_not_take_the_result_are_refused(tmp_path: Path, name: str, folder: bool, sentence: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=sentence):
        try_output(tmp_path / name, folder=folder)


def test_a_lack_of_space_is_told_in_figures_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda place: Mock(free=40_000))
    try_output(tmp_path / "a", needs=40_000)
    with pytest.raises(UserError, match=r"needs 41\.0 kB, and .* has 40\.0 kB free"):
        try_output(tmp_path / "a", needs=41_000)


@pytest.mark.skipif(sys.platform not in {"linux", "darwin"}, reason="only there")
def test_two_folders_change_places(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"from {name}").touch()
    assert exchange(tmp_path / "one", tmp_path / "other")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["from other"]
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["from one"]
    assert not exchange(tmp_path / "one", tmp_path / "nothing")


def test_a_full_disk_names_what_was_being_written(tmp_path: Path) -> None:
    """The system names the source of a copy, or nothing."""
    for full in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOSPC, "No space", "a.jpg", None, "b"),
    ):
        for writing in (replacing(tmp_path / "model.bin"), new_folder(tmp_path / "set")):
            with pytest.raises(OSError, match="No space") as caught, writing:
                raise full
            assert caught.value.filename in {str(tmp_path / "model.bin"), str(tmp_path / "set")}
    assert list(tmp_path.iterdir()) == []


def test_other_errors_keep_the_file_that_they_name(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as caught, replacing(tmp_path / "model.bin"):
        raise PermissionError(errno.EACCES, "Permission denied", "secret.txt")
    assert caught.value.filename == "secret.txt"
