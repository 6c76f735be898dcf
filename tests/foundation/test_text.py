"""Text that other people chose, on a terminal and as a file's name."""

import pytest

from detheads.foundation.errors import suggest
from detheads.foundation.text import LONGEST_NAME, file_name, visible


@pytest.mark.parametrize("text", ["", "car [rear]", "[/x]", "Ärger", "狗 🐕‍🦺", "नमस्ते", "دراجة", "a\\b", "e\u0301"])
def test_what_is_seen_stays(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nerror: b", r"a\nerror: b"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("invoice\u202egnp.exe", r"invoice\u202egnp.exe"),
        ("b\udcfcro.jpg", r"b\udcfcro.jpg"),
        ("a\u200bb\u2028", r"a\u200bb\u2028"),
    ],
)
def test_what_acts_on_the_terminal_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_stay_where_there_may_be_several() -> None:
    assert visible("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"


@pytest.mark.parametrize("text", ["cat.jpg", "Ärger", "狗", "a b", "x" * LONGEST_NAME, "🐕" * 60 + ".jpg"])
def test_a_usable_name_stays(text: str) -> None:
    assert file_name(text) == text


HOSTILE = ["", ".", "..", "a/b", "a_b", "a\\b", "C:x", "nul", "COM1.txt", "a.", "a ", "x" * 256, "狗" * 100 + ".jpg"]
HOSTILE += [
    "狗" * 101 + ".jpg",
    "a\0b",
    "a\udcffb",
    "a\udcfeb",
    "\ud800",
    "a\nb",
    "?",
    "*",
    "x" * 300 + "." + "y" * 300,
]


def test_every_text_has_a_name_of_its_own_that_every_system_takes() -> None:
    names = [file_name(text) for text in HOSTILE]
    assert len(set(names)) == len(HOSTILE)
    for name in names:
        assert 0 < len(name.encode()) <= LONGEST_NAME
        assert not set('/\\:*?"<>|\0\n') & set(name)
        assert name.strip(" .") == name
        assert name.partition(".")[0].lower() not in {"nul", "com1"}
    assert file_name("狗" * 100 + ".jpg").endswith(".jpg")


def test_a_near_name_is_offered() -> None:
    assert suggest("fcoss", ["retina", "fcos"]) == " Did you mean 'fcos'?"
    assert suggest("train.json", ["Train.json", "val.json"]) == " Did you mean 'Train.json'?"
    assert suggest("zebra", ["retina", "fcos"]) == ""
    assert suggest("a", []) == ""
