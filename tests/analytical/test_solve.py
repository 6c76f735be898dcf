"""How strongly the solves are regularised, and what scikit-learn's discriminant says as log-odds."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from detheads.analytical.solve import Strengths, log_odds
from detheads.foundation.errors import UserError


@pytest.mark.parametrize("strengths", [(0.0, 0.0, 0.0), (1.0, 1e9, 1e9)])
def test_strengths_may_be_nothing_and_large(strengths: tuple[float, float, float]) -> None:
    assert Strengths(*strengths).shrinkage in {0, 1}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shrinkage": -0.01}, "--shrinkage must be between 0 and 1, not -0.01."),
        ({"shrinkage": 1.01}, "--shrinkage must be between 0 and 1, not 1.01."),
        ({"shrinkage": float("nan")}, "--shrinkage must be between 0 and 1, not nan."),
        ({"alpha": -1.0}, "--alpha must be 0 or more, not -1.0."),
        ({"alpha": float("inf")}, "--alpha must be 0 or more, not inf."),
        ({"region_alpha": -1.0}, "--region-alpha must be 0 or more, not -1.0."),
    ],
)
def test_strengths_out_of_range_are_one_sentence(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        Strengths(**options)
    assert str(raised.value) == sentence


def test_without_options_the_strengths_are_those_of_the_published_figures() -> None:
    assert Strengths() == Strengths(shrinkage=0.01, alpha=100.0, region_alpha=300.0)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_log_odds_against_the_background_are_those_of_scikit_learns_probabilities(classes: int) -> None:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 300)
    rows = random.normal(size=(300, 4)) + labels[:, None] * [1.0, -0.5, 0.2, 0.0]
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(rows, labels)
    weight, bias = log_odds(fitted)
    shares = fitted.predict_log_proba(rows)
    expected = torch.from_numpy(shares[:, 1:] - shares[:, :1]).float()
    torch.testing.assert_close(torch.from_numpy(rows).float() @ weight + bias, expected, rtol=1e-4, atol=1e-4)
