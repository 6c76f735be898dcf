"""``--help`` of every command fits a terminal of 80 columns without cutting a word."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.docs.command_tree import walk


def _words(text: str) -> set[str]:
    return {word for word in text.replace("│", " ").split() if not set(word) <= set("╭╮╰╯─")}


@pytest.mark.parametrize("path", [path for path, _ in walk()], ids=lambda path: " ".join(path) or "detheads")
def test_help_fits_80_columns_with_every_word_of_a_wide_terminal(
    path: tuple[str, ...], detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {}
    for columns in (80, 400):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", None)
        finished = detheads(*path, "--help")
        assert finished.code == 0
        assert "…" not in finished.out
        shown[columns] = finished.out
    assert max(map(len, shown[80].splitlines())) <= 80
    assert max(map(len, shown[400].splitlines())) > 80
    assert sorted(_words(shown[400]) - _words(shown[80])) == []
