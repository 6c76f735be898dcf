"""What is run and what is left out: patterns, repeated names, an earlier run's output, things that are no pictures."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from detheads.deploy.inputs import collect_images
from detheads.foundation.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.png", "b.png", "inner/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(folder / name)
    return folder


def collected(*sources: object) -> tuple[list[str], list[str]]:
    remarks: list[str] = []
    images = collect_images([str(source) for source in sources], on_remark=remarks.append)
    assert [image.id for image in images] == list(range(1, len(images) + 1))
    return [image.path.as_posix().rpartition("photos/")[2] for image in images], remarks


def test_a_pattern_that_the_shell_left_alone_is_expanded(folder: Path) -> None:
    assert collected(folder / "*.png") == (["a.png", "b.png"], [])
    assert collected(folder / "**" / "a.png") == (["a.png", "inner/a.png"], ["2 pictures share 1 names, such as a.png; "
        "in images.json their ids tell them apart"])  # fmt: skip
    with pytest.raises(UserError, match=r"no file matches .*\*\.jpg; correct the pattern"):
        collected(folder / "*.jpg")
    (folder / "[1].png").write_bytes((folder / "a.png").read_bytes())
    assert collected(folder / "[1].png")[0] == ["[1].png"]  # a file of that name is no pattern


def test_a_file_given_twice_is_run_once(folder: Path) -> None:
    names, remarks = collected(folder / "a.png", folder, folder / "b.png")
    assert names == ["a.png", "b.png", "inner/a.png"]
    assert remarks == ["2 pictures are given more than once; each is run once"]


def test_what_is_passed_over_in_a_folder_is_counted(folder: Path) -> None:
    for name in ("x.heic", "y.heic", "z.jp2"):
        (folder / name).write_bytes(b"")
    names, (remark,) = collected(folder)
    assert len(names) == 3
    assert "pictures with other endings are left out (2 .heic, 1 .jp2)" in remark


@pytest.mark.parametrize("results", ["detections.json", "detections.jsonl", "detections.csv"])
def test_pictures_of_an_earlier_run_are_left_out_of_a_folder_around_them(results: str, folder: Path) -> None:
    drawn = folder / "out" / "pictures"
    shutil.copytree(folder / "inner", drawn / "inner")
    assert len(collected(folder)[0]) == 4  # a folder of that name alone says nothing
    for name in (results, "images.json"):
        (folder / "out" / name).write_text(json.dumps([]))
    names, (remark, *_) = collected(folder)
    assert names == ["a.png", "b.png", "inner/a.png"]
    assert "1 pictures drawn by an earlier run are left out" in remark
    with pytest.raises(UserError, match="holds no pictures but those that an earlier run has drawn"):
        collected(folder / "out")
    for asked in (drawn, drawn / "inner" / "a.png"):
        shutil.copy(folder / "a.png", drawn / "a.png")
        names, remarks = collected(asked)
        assert names
    assert "was drawn by an earlier run" not in remarks  # only what lies right in the folder is known by its place
    assert "were drawn by an earlier run" in collected(drawn)[1][0]
    assert "was drawn by an earlier run" in collected(drawn / "a.png")[1][0]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("0", "0 does not exist; for the camera of that number give camera:0"),
        (
            "rtsp://me:secret@camera/1",
            "rtsp://camera/1 is a video, and pictures are needed; 'detheads deploy",
        ),
        ("https://a.example/a.jpg", "is a video"),
        ("film.MP4", r"film\.MP4 is a video"),
        ("photos/bb.png", r"bb\.png does not exist\. Did you mean 'b\.png'\?"),
        ("nowhere/b.png", r"b\.png does not exist\.$"),
    ],
)
def test_other_sources_than_pictures_are_named(
    folder: Path, source: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UserError, match=sentence):
        collect_images([source])
