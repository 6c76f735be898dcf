"""The benchmark of the closed form runs on tiny inputs and relates ours to baselines of the same run."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from detheads.bench import closed_form
from detheads.bench.closed_form import bench_analytical
from detheads.foundation.progress import silent
from detheads.foundation.timing import Timing

SMALL = ("--rows", 3000, "--dimensions", 16, "--fit-rows", 2000, "--repeats", 2)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours takes a third of a second, whatever it is given; the others a whole one."""
    took = {"streamed": 1 / 3}
    monkeypatch.setattr(
        closed_form,
        "take_turns",
        lambda rounds: Timing({name: (took.get(name, 1.0),) for name in next(iter(rounds))}),
    )


def test_rates_are_rows_a_second_and_fits_are_related_to_ours(seconds: None) -> None:
    result = bench_analytical(3000, 16, 2000, 2, [], silent)
    streaming, fit = result.streaming, result.fit
    assert (streaming.streamed, streaming.product, streaming.ratio) == pytest.approx((9000, 3000, 3))
    assert streaming.estimated_minutes == pytest.approx(51_000_000 / 9000 / 60)
    assert (fit.streamed, fit.svd_ratio, fit.lsqr_ratio) == pytest.approx((1 / 3, 3, 3))


def test_the_printed_lines_name_the_baselines_and_the_estimate(detheads: Callable[..., Any]) -> None:
    lines = detheads("bench", "analytical", *SMALL).out.splitlines()
    assert re.search(r"bare product [\d,]+ rows/s \(baseline\)", lines[0])
    assert re.search(r"scikit-learn .* baseline\)", lines[1])
    assert lines[-1].startswith("estimate, not measured: the pass over 51,000,000 rows takes ")


def test_memory_does_not_grow_with_the_rows() -> None:
    few, many = 20_000, 620_000
    done: list[tuple[str, int, int]] = []
    result = bench_analytical(2000, 64, 2000, 1, [few, many], lambda *state: done.append(state))
    assert [measured.rows for measured in result.memory] == [few, many]
    small, large = (measured.peak_memory_mb for measured in result.memory)
    assert large - small < 30  # the rows themselves would take 154 MB more
    assert done == [("measuring", number, 4) for number in range(5)]
