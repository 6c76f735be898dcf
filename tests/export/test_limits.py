"""The limits of the gate: by precision, in proportion to the tolerance of the mAP, and as asked for."""

import pytest

from detheads.export.limits import MAP_DROPS, MATCHED, MULTIPLES, Limits, parse_limits
from detheads.foundation.errors import UserError


@pytest.mark.parametrize(
    ("precision", "drop"), [("fp32", 0.001), ("fp16", 0.003), ("bf16", 0.003), ("int8", 0.005), ("mixed", 0.005)]
)
def test_the_coarser_the_precision_the_larger_the_tolerance(precision: str, drop: float) -> None:
    limits = Limits.of(precision)  # type: ignore[arg-type]
    assert limits.drops["AP"] == drop
    assert set(limits.drops) == {"AP", *MULTIPLES}
    assert all(limit > drop for name, limit in limits.drops.items() if name != "AP")
    assert set(MAP_DROPS) == set(MATCHED)
    assert limits.matched <= Limits.of("fp32").matched


def test_another_tolerance_of_the_map_moves_what_is_not_set_by_itself() -> None:
    limits = Limits.of("fp32", 0.01, 0.5, {"class": 0.02})
    assert limits.drops == {
        "AP": 0.01, "AP50": 0.03, "AP75": 0.05, "small": 0.05, "medium": 0.05, "large": 0.05, "class": 0.02,
    }  # fmt: skip
    assert limits.matched == 0.5
    assert Limits.of("fp32", 0.3).drops["class"] == 1
    assert set(Limits.of("fp32", 0.0).drops.values()) == {0.0}
    assert "AP 0.01, AP50 0.03" in limits.told() and "at least 50 %" in limits.told()


def test_less_loss_is_asked_for_without_asking_for_less_luck() -> None:
    tight, wide = Limits.of("int8", 0.0008), Limits.of("int8", 0.02)
    assert (tight.drops["AP"], tight.gains["AP"]) == (0.0008, 0.005)
    assert tight.gains == Limits.of("int8").drops == Limits.of("int8").gains
    assert wide.gains == wide.drops


def test_limits_are_read_from_the_command_line() -> None:
    assert parse_limits([]) == {}
    assert parse_limits(["AP50=0.01", "class=0"]) == {"AP50": 0.01, "class": 0.0}


@pytest.mark.parametrize(
    "texts", [["AP=0.1"], ["class"], ["class="], ["class=x"], ["class=-0.1"], ["class=1.1"], ["class=nan"], ["=0.1"]]
)
def test_what_is_no_limit_is_refused_with_the_names_there_are(texts: list[str]) -> None:
    with pytest.raises(UserError, match=r"AP50, AP75, small, medium, large, class .*--max-map-drop"):
        parse_limits(texts)


def test_a_limit_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="class twice"):
        parse_limits(["class=0.1", "class=0.2"])
