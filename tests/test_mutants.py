"""The lists of `make mutants` follow the code: what they name is there."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "tests" / "mutation"
CONFIG: dict[str, Any] = yaml.safe_load((LISTS / "modules.yaml").read_text("utf-8"))
EQUIVALENT: list[dict[str, str]] = yaml.safe_load((LISTS / "equivalent.yaml").read_text("utf-8"))


@pytest.mark.parametrize("module", CONFIG["modules"])
def test_files_and_tests_of_a_module_exist(module: str) -> None:
    entry = CONFIG["modules"][module]
    named = entry["files"] + [name for name in entry["tests"] if name.startswith("tests/")]
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("fault", CONFIG["faults"], ids=lambda fault: fault["name"])
def test_a_planted_fault_finds_the_code_that_it_spoils(fault: dict[str, str]) -> None:
    assert fault["module"] in CONFIG["modules"]
    assert (ROOT / fault["file"]).read_text("utf-8").count(fault["before"]) == 1


@pytest.mark.parametrize("entry", EQUIVALENT, ids=lambda entry: entry["file"])
def test_an_equivalent_mutant_changes_lines_that_are_there_and_says_why(entry: dict[str, str]) -> None:
    lines = [line.strip() for line in (ROOT / entry["file"]).read_text("utf-8").splitlines()]
    changed = entry["change"].splitlines()
    assert [line for line in changed if line.startswith("-") and line[1:].strip() not in lines] == []
    assert any(line.startswith("+") for line in changed)
    assert entry["reason"].endswith(".")
