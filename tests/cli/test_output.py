"""What is printed is what it is called, whatever it is called."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from detheads.cli.output import emit, progress, remark, table

NAMES = ["car [rear]", "[/x]", "[red]bus", ":car:", "Ärger", "狗", "🐕‍🦺", "[link=http://a.b]c"]
HOSTILE = {"a\x1b[2J": r"a\x1b[2J", "b\u202ec": r"b\u202ec", "d\ne": r"d\ne", "f\udcff": r"f\udcff", "g\x9b": r"g\x9b"}


@pytest.mark.parametrize(("name", "shown"), [*((name, name) for name in NAMES), *HOSTILE.items()])
def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], name: str, shown: str) -> None:
    remark(name)
    with progress() as bar:
        bar.add_task(name)
    emit(None, False, lambda console: console.print(name))
    emit(None, False, lambda console: console.print(table([name], [[name]], title=name)))
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{shown}\n{shown} ")
    assert [line.strip() for line in captured.out.splitlines()] == [shown] * 4


@pytest.mark.parametrize("name", [*NAMES, *HOSTILE])
def test_json_says_the_same_and_acts_on_no_terminal(capsys: pytest.CaptureFixture[str], name: str) -> None:
    emit({"class": name}, True, lambda console: None)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"class": name}
    assert not set("\x1b\u202e\udcff\x9b") & set(printed)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_encoding_that_lacks_a_character_costs_nothing(tmp_path: Path, encoding: str) -> None:
    """With --json the value is whole; in text an escape stands for the character."""
    name = "ü狗🐕.json"
    shown = name if encoding == "utf-8" else name.encode(encoding, "backslashreplace").decode(encoding)
    for option in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "detheads", "cache", "info", name, *option],
            env={"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path), "COLUMNS": "200"},
            capture_output=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.decode(encoding).startswith(f"error: {shown} holds no feature cache")
        if option:
            assert json.loads(done.stdout.decode(encoding))["error"].startswith(name)
