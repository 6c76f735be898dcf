"""Tables of the documentation have a row for everything that exists, with its figures of today."""

import json
import re
from collections.abc import Callable
from typing import Any

from detheads.backbones.spec import SPECS
from detheads.data.layout import known_layouts
from detheads.headkit import registry
from tests.docs.pages import PAGES


def _rows(name: str) -> list[list[str]]:
    lines = [line for line in PAGES[name].text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_heads_is_what_heads_list_says(detheads: Callable[..., Any]) -> None:
    listed = json.loads(detheads("heads", "list", "--json").out)
    table = {cells[0].strip("`"): cells[1:3] for cells in _rows("docs/heads.md")[1:]}
    assert table == {head["name"]: [f"{head['parameters']:,}", f"{head['gflops']:.1f}"] for head in listed}


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
