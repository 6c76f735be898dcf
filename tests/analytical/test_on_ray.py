"""Statistics of a cache by two real workers of Ray, of which one is killed: those of one pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.analytical.statistics import load_statistics
from detheads.cache.reader import FeatureCache
from tests.analytical.test_statistics import assert_equal_sums
from tests.ray_workers import kill_a_worker, start

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="needs the ray extra")


def test_two_workers_of_which_one_is_killed_sum_what_one_pass_sums(
    narrow: FeatureCache, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    line = ("analytical", "collect", "--cache", narrow.folder, "--preset", "reference", "--threads", 1)
    assert detheads(*line, "-o", tmp_path / "alone").code == 0
    run = start(*line, "-o", tmp_path / "shared", "--workers", 2, "--json")
    kill_a_worker(run, lambda: (tmp_path / "shared.parts" / "plan.safetensors").is_file(), doing="work")
    printed, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert "is done again: its worker died" in " ".join(said.split())
    assert json.loads(printed)["images"] == len(narrow)
    alone, shared = (load_statistics(tmp_path / name) for name in ("alone", "shared"))
    assert shared.parts == alone.parts
    assert_equal_sums(shared, alone)
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "shared"}
    again = detheads(*line, "-o", tmp_path / "shared", "--workers", 2)  # nothing is left to do
    assert again.code == 0, again.err


def test_options_of_workers_that_nobody_asked_for_are_refused(
    narrow: FeatureCache, tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = ("analytical", "collect", "--cache", narrow.folder, "-o", tmp_path / "statistics")
    assert "--address without workers on Ray; say how many with --workers" in refused(*line, "--address", "auto")
