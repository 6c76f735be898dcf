"""What is said of measures that have drifted."""

import pytest

from detheads.deploy.monitor.causes import causes
from detheads.deploy.monitor.drift import Drift


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (70.0, "(brightness 70, 110 at export)"),
        (110.4, "(brightness 110 in the middle as at export, and spread otherwise)"),
    ],
)
def test_a_median_that_stayed_is_not_told_as_a_change(now: float, said: str) -> None:
    drift = Drift(distance=0.5, mirrored=1, outside=0, before=110.0, now=now, higher=False, drifted=True)
    (cause,) = causes({"brightness": drift})
    assert said in cause.sentence
