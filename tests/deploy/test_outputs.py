"""Annotated pictures never overwrite each other, and every name can be written."""

import os
from pathlib import Path

import pytest

from detheads.deploy.outputs import picture_names, try_pictures
from detheads.foundation.errors import UserError

LONG = "ä" * 125


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["a.png", "b/c.jpeg"], ["a.jpg", "b/c.jpg"]),
        (["a-3.jpg", "a.jpg", "a.png"], ["a-3.jpg", "a.jpg", "a-2.jpg"]),
        (["a.png", "a.jpg", "a-2.gif"], ["a.jpg", "a-2.jpg", "a-2-2.jpg"]),
        (["b.jpg/x.png", "b.png"], ["b.jpg/x.jpg", "b-2.jpg"]),
        (["b.png", "b.jpg/x.png", "b.jpg/y.png"], ["b.jpg", "b.jpg-2/x.jpg", "b.jpg-2/y.jpg"]),
        (["A.png", "a.png"], ["A.jpg", "a-2.jpg"]),  # one file where case does not count
        (["\u00e4.png", "a\u0308.png"], ["\u00e4.jpg", "a\u0308-2.jpg"]),  # one file on other systems
        (["../x.png", "/x.png"], ["x.jpg", "x-2.jpg"]),
        (["a.b.png", "no ending"], ["a.b.jpg", "no ending.jpg"]),
    ],
)
def test_every_source_has_a_picture_of_its_own(sources: list[str], expected: list[str], tmp_path: Path) -> None:
    assert picture_names(sources) == expected
    try_pictures(tmp_path, dict(zip(expected, sources, strict=True)))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(sources)


@pytest.mark.parametrize(
    "source",
    [LONG + ".png", os.fsdecode(b"caf\xe9.png"), "a\nb.png", "con.png", "x:y?.png", LONG + "/" + LONG + ".png"],
)
def test_names_that_a_file_system_may_refuse_are_changed(source: str, tmp_path: Path) -> None:
    names = picture_names([source, source])
    assert len(set(names)) == 2
    for name in names:
        assert all(len(part.encode()) <= 255 for part in name.split("/"))
        assert name.endswith(".jpg")
    try_pictures(tmp_path, dict.fromkeys(names, source))


def test_many_sources_of_one_name_take_no_longer_than_others() -> None:
    assert len(set(picture_names(["frame.png"] * 3000))) == 3000


def test_a_name_that_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(UserError, match=r"of photos/x\.png cannot be written here as a/x\.jpg .* --no-pictures"):
        try_pictures(tmp_path, {"a/x.jpg": "photos/x.png"})
