"""The benchmark of the closed form runs on tiny inputs and relates ours to baselines of the same run."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from detheads.bench.closed_form import bench_analytical

SMALL = ("--rows", 3000, "--dimensions", 16, "--fit-rows", 2000, "--repeats", 2)


def test_every_ratio_is_that_of_two_measurements_of_the_run(detheads: Callable[..., Any]) -> None:
    finished = detheads("bench", "analytical", *SMALL, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert (answer["dimensions"], answer["memory"]) == (16, [])
    streaming, fit = answer["streaming"], answer["fit"]
    measured = [streaming["streamed"], streaming["product"], fit["streamed"], fit["svd"], fit["lsqr"]]
    assert all(math.isfinite(value) and value > 0 for value in measured)
    assert fit["rows"] == 2000
    assert streaming["ratio"] == pytest.approx(streaming["streamed"] / streaming["product"])
    assert fit["svd_ratio"] == pytest.approx(fit["svd"] / fit["streamed"])
    assert fit["lsqr_ratio"] == pytest.approx(fit["lsqr"] / fit["streamed"])
    assert streaming["estimated_minutes"] == pytest.approx(51e6 / streaming["streamed"] / 60)


def test_the_printed_lines_name_the_baselines_and_the_estimate(detheads: Callable[..., Any]) -> None:
    lines = detheads("bench", "analytical", *SMALL).out.splitlines()
    assert "bare product" in lines[0]
    assert "scikit-learn" in lines[1]
    assert lines[-1].startswith("estimate, not measured: the pass over 51,000,000 rows takes ")


def test_memory_does_not_grow_with_the_rows() -> None:
    few, many = 20_000, 620_000
    done: list[tuple[int, int]] = []
    result = bench_analytical(2000, 64, 2000, 1, [few, many], lambda *state: done.append(state))
    assert [measured.rows for measured in result.memory] == [few, many]
    small, large = (measured.peak_memory_mb for measured in result.memory)
    assert large - small < 30  # the rows themselves would take 154 MB more
    assert done == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
