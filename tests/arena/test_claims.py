"""What became of a claim, against SciPy's own t-tests, and the cases in which nothing can be said."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from detheads.arena.claims import WORTH, Claim, claims_of
from detheads.arena.domains import DomainsResult, markdown
from detheads.arena.records import ControlOf, Row, SeedResult
from detheads.arena.report import write_report
from tests.arena.by_hand import done, failed, setting, write_arena
from tests.report.browser import Elements

IDEA = ControlOf(
    head="wavelet", idea="details", claim="Details find small objects.", options={"details": False}, metric="APs"
)


def _sides(
    with_idea: Sequence[float | None], without: Sequence[float | None], control: ControlOf = IDEA
) -> tuple[Row, Row]:
    """The rows of a head and of its control, seeds 0, 1, ..."""

    def row(name: str, values: Sequence[float | None], **more: Any) -> Row:
        seeds = tuple(
            SeedResult(seed=seed, metrics={control.metric: value}, best_epoch=1, seconds=1.0)
            for seed, value in enumerate(values)
        )
        return done(name, 0.2, 1000, seeds=seeds, **more)

    return row("wavelet", with_idea), row(control.name, without, control=control)


def _claim(rows: Mapping[str, Sequence[Row]]) -> Claim:
    (claim,) = claims_of(rows)
    return claim


def test_the_interval_of_one_domain_is_that_of_the_paired_t_test() -> None:
    on, off = np.array([0.31, 0.29, 0.33, 0.30]), np.array([0.28, 0.285, 0.29, 0.295])
    claim = _claim({"one": _sides(on.tolist(), off.tolist())})
    expected = stats.ttest_rel(on, off).confidence_interval(0.95)
    assert (claim.low, claim.high) == pytest.approx((expected.low / off.mean(), expected.high / off.mean()))
    assert claim.gain == pytest.approx((on - off).mean() / off.mean())
    assert claim.spread == pytest.approx((on - off).std(ddof=1) / off.mean())
    assert (claim.mean(with_idea=True), claim.mean(with_idea=False)) == pytest.approx((on.mean(), off.mean()))
    assert claim.seeds == 4


def test_the_interval_of_two_domains_is_that_of_welch() -> None:
    """The mean of two means is half the difference between the first and the second with its sign turned."""
    first, second = np.array([0.02, 0.05, 0.03]), np.array([0.10, -0.06, 0.02])
    rows = {"one": _sides((1 + first).tolist(), [1.0] * 3), "two": _sides((0.5 * (1 + second)).tolist(), [0.5] * 3)}
    claim = _claim(rows)
    expected = stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    assert (claim.low, claim.high) == pytest.approx((expected.low / 2, expected.high / 2))
    assert claim.verdict == "undecided"
    alone = {domain: each.gain for domain, each in claim.alone.items()}
    assert alone == pytest.approx({"one": first.mean(), "two": second.mean()})


@pytest.mark.parametrize(
    ("metric", "allowance", "gains", "verdict"),
    [
        ("APs", 0.0, [0.10, 0.11, 0.12], "stands"),
        ("APs", 0.0, [0.001, 0.0011, 0.0012], "stands"),  # little, and no chance
        ("APs", 0.0, [0.0, 0.0, 0.0], "falls"),
        ("APs", 0.0, [-0.01, 0.0, 0.01 - WORTH], "falls"),
        ("APs", 0.0, [-0.2, 0.1, 0.2], "undecided"),
        ("APs", 0.05, [-0.02, -0.02, -0.025], "stands"),  # as little as may be lost
        ("APs", 0.05, [-0.07, -0.07, -0.075], "falls"),
        ("APs", 0.05, [0.0, -0.05, -0.05], "undecided"),
        ("false_detections", 0.0, [-0.1, -0.11, -0.12], "stands"),  # fewer is better
        ("false_detections", 0.0, [0.1, 0.11, 0.12], "falls"),
    ],
)
def test_a_claim_stands_falls_or_is_undecided(metric: str, allowance: float, gains: list[float], verdict: str) -> None:
    control = IDEA.model_copy(update={"metric": metric, "allowance": allowance})
    claim = _claim({"one": _sides([2 * (1 + gain) for gain in gains], [2.0] * 3, control)})
    assert claim.verdict == verdict, claim
    assert verdict.capitalize() in claim.told()


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (_sides([0.3], [0.1]), "one seed has no spread"),
        (_sides([0.3, 0.3], [0.1, None]), "APs is undefined with seed 1"),
        (_sides([0.3, 0.3], [0.0, 0.0]), "the control reaches 0"),
        ((_sides([0.3, 0.3], [0.1, 0.1])[1], failed("wavelet", "it broke")), "wavelet failed"),
    ],
    ids=["one seed", "undefined", "nothing learned", "failed"],
)
def test_where_nothing_can_be_said_the_claim_is_undecided_and_says_why(rows: tuple[Row, Row], why: str) -> None:
    claim = _claim({"one": rows})
    assert claim.verdict == "undecided"
    assert claim.low is None and claim.high is None
    assert why in claim.told()


def test_a_head_without_its_control_makes_no_claim() -> None:
    head, control = _sides([0.3, 0.3], [0.1, 0.1])
    assert claims_of({"one": [head]}) == claims_of({"one": [control]}) == []
    assert claims_of({"one": [head, control], "two": [head]}) == []


def test_reports_show_the_claims_with_their_verdicts(tmp_path: Path) -> None:
    rows = _sides([0.3, 0.31], [0.2, 0.21])
    files = write_report(write_arena(tmp_path / "arena", setting(), *rows))
    (claim,) = json.loads(files.json.read_text("utf-8"))["claims"]
    assert claim == _claim({"scenes": rows}).to_dict()
    assert claim["verdict"] == "stands" and claim["head"] == "wavelet"
    told = "wavelet, details: Details find small objects. Stands: APs 0.305 with it and 0.205 without it over 2 seeds"
    assert told in Elements(files.page).text
    assert told in files.markdown.read_text("utf-8")
    table = markdown(DomainsResult({"one": rows, "two": rows}))
    assert "| wavelet | details | +48.8%, stands | +48.8%, stands |" in table
    assert "over 2 seeds on 2 domains" in table
