"""Tables of the documentation have a row for everything that exists, with its figures of today."""

import json
import re
from collections.abc import Callable
from typing import Any

from detheads.backbones.spec import SPECS
from detheads.data.layout import known_layouts
from detheads.headkit import registry
from detheads.headkit.controls import Control
from tests.docs.pages import PAGES


def _rows(name: str, column: str = "") -> list[list[str]]:
    """The rows of all tables of a page, or of those with such a first column."""
    tables = re.findall(rf"^\| {column}.*\n(?:\|.*\n)*", PAGES[name].text, flags=re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_heads_is_what_heads_list_says(detheads: Callable[..., Any]) -> None:
    listed = json.loads(detheads("heads", "list", "--json").out)
    table = {cells[0].strip("`"): cells[1:3] for cells in _rows("docs/heads.md", "head ")[1:]}
    assert table == {head["name"]: [f"{head['parameters']:,}", f"{head['gflops']:.1f}"] for head in listed}


def test_the_table_of_ideas_has_every_control_of_every_head() -> None:
    said = [
        [f"`{name}`", idea, f"`{control}`", _judged(control), control.claim]
        for name, found in registry.entries().items()
        for idea, control in found.head.controls.items()
    ]
    assert _rows("docs/heads.md", "idea of ")[1:] == said


def _judged(control: Control) -> str:
    return control.metric + (f", {control.allowance:.0%} allowed" if control.allowance else "")


def test_the_readme_counts_the_heads_and_backbones() -> None:
    assert f"{len(registry.entries())} heads" in PAGES["README.md"].text
    assert f"{['no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight'][len(SPECS)]} known backbones" in (
        PAGES["README.md"].text
    )


def test_every_backbone_has_a_row() -> None:
    assert set(re.findall(r"`(\w+)`", " ".join(row[0] for row in _rows("docs/features.md")))) >= SPECS.keys()


def test_every_layout_has_a_row() -> None:
    rows = " ".join(row[0].lower() for row in _rows("docs/data.md"))
    assert [name for name in known_layouts() if name not in rows] == []
