"""Reading what others wrote: one sentence for whatever it is, at once, and the same content in any usual encoding."""

import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detheads.foundation.errors import MissingFileError, UserError
from detheads.foundation.reading import DEEPEST, open_regular, parse_json, read_bytes, read_json, read_text, read_yaml

CONTENT = {"names": ["Böcke", "no", "07"], "count": "3"}
JSON = json.dumps(CONTENT, ensure_ascii=False)
YAML = "names: [Böcke, no, 07]\ncount: 3\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("read", "text"), [(read_json, JSON), (read_yaml, YAML)])
def test_a_byte_order_mark_changes_nothing(
    tmp_path: Path, read: Callable[..., object], text: str, encoding: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(text.encode(encoding))
    assert read(path) == read(str(path)) == CONTENT
    assert read_text(path) == text


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # such names may have a hundred letters


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "does not exist"),
    "a folder": (Path.mkdir, "is a folder"),
    "a pipe": (_pipe, "is a pipe"),
    "a socket": (_socket, "is a socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "a loop": (lambda path: path.symlink_to(path), "leads to itself"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "does not exist"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [open_regular, read_bytes, read_json, read_yaml])
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], kind: str
) -> None:
    make, sentence = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data.json"
    make(path)
    with pytest.raises(UserError, match=rf"data\.json .*{sentence}") as caught:
        read(path)
    assert isinstance(caught.value, MissingFileError) == (sentence == "does not exist")


@pytest.mark.parametrize(
    ("name", "sentence"), [("a\0b", "no path may hold"), ("a" * 300, "too long"), ("\ud800", "no path may hold")]
)
def test_impossible_paths_are_one_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_bytes(tmp_path / name)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link") == b"content"


@pytest.mark.parametrize("path", [Path("/proc/self/environ"), None])
def test_more_than_the_limit_is_refused(tmp_path: Path, path: Path | None) -> None:
    """Whatever size the system says the file has: those of /proc say 0."""
    if path is None:
        path = tmp_path / "file"
        path.write_bytes(b"12345")
    with pytest.raises(UserError, match="more than"):
        read_bytes(path, 4)
    if path.parent == tmp_path:
        assert read_bytes(path, 5) == b"12345"


def _nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_depth_has_a_bound(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    path.write_text(_nested(DEEPEST))
    assert str(read(path)) == _nested(DEEPEST)
    for levels in (DEEPEST + 1, 900, 100_000):
        path.write_text(_nested(levels))
        with pytest.raises(UserError, match=f"more than {DEEPEST} deep"):
            read(path)


@pytest.mark.parametrize("digits", [str(2**63 - 1), str(-(2**63)), "0.1234567890123456789012345", "1e300"])
def test_numbers_of_64_bits_are_read(digits: str) -> None:
    assert parse_json(f'{{"id": {digits}, "file_name": "{"7" * 30}.jpg"}}'.encode(), "a.json") == {
        "id": json.loads(digits),
        "file_name": "7" * 30 + ".jpg",
    }


@pytest.mark.parametrize("digits", [str(2**63), str(-(2**63) - 1), "9" * 400, "1" * 5000])
def test_longer_numbers_are_refused(digits: str) -> None:
    with pytest.raises(UserError, match=rf"a\.json is not readable JSON \(it holds a number of {len(digits)} digits\)"):
        parse_json(f'{{"id": {digits}}}'.encode(), "a.json")


BOMBS = {
    "by aliases": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)),
    "of itself": "nc: &a [*a]",
    "by a chain": "- &a0 []\n" + "".join(f"- &a{i + 1} [*a{i}]\n" for i in range(1000)),
    "by width": "- &a [" + "x, " * 10_000 + "]\n- [" + "*a, " * 10_000 + "]",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_aliases_in_yaml_do_not_multiply_without_end(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(BOMBS[bomb])
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"data\.yaml .*(alias|deep)"):
        read_yaml(path)
    assert time.perf_counter() - began < 5


def test_a_few_aliases_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("one: &names [a, b]\ntwo: *names\nthree: &word c\nfour: *word\n")
    assert read_yaml(path) == {"one": ["a", "b"], "two": ["a", "b"], "three": "c", "four": "c"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid: sha256:12\n size 3", "git lfs pull"),
        (b"<!DOCTYPE html>\n<title>a: [</title>", "HTML page"),
        (b"a: 1\nb: [\xe9]", "byte e9 in line 2"),
        (b'{"a":', "is not readable JSON"),
    ],
)
def test_the_likely_cause_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_json(path)


def test_a_tab_in_yaml_is_pointed_at(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("nc: 1\nnames:\n\t0: a\n")
    with pytest.raises(UserError, match="indent line 3 without tabs"):
        read_yaml(path)


def test_yaml_that_has_no_meaning_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    for content in ("{[a]: b}", "a: b: c", "a: \x01", "a: b\n---\nc: d\n"):
        path.write_text(content)
        with pytest.raises(UserError, match="is not readable YAML"):
            read_yaml(path)
