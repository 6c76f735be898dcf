"""Scores and classes as a command line gives them."""

import numpy as np
import pytest

from detheads.deploy.selection import lowest_scores
from detheads.foundation.errors import UserError

NAMES = ("person", "dog", "bow, decorative", "a=b")
NEVER = np.inf


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0, 0, 0, 0]),
        ({"scores": ["0.25"]}, [0.25, 0.25, 0.25, 0.25]),
        ({"scores": ["person=0.5"]}, [0.5, 0, 0, 0]),
        ({"scores": ["0.25", "dog=0.75"]}, [0.25, 0.75, 0.25, 0.25]),
        ({"scores": ["dog=0.75, 0.25,a=b=1"]}, [0.25, 0.75, 0.25, 1]),
        ({"scores": ["bow, decorative=0.5"]}, [0, 0, 0.5, 0]),
        ({"only": ["person,dog"]}, [0, 0, NEVER, NEVER]),
        ({"only": ["person", " dog"]}, [0, 0, NEVER, NEVER]),
        ({"only": ["bow, decorative"]}, [NEVER, NEVER, 0, NEVER]),
        ({"without": ["dog"]}, [0, NEVER, 0, 0]),
        ({"only": ["person,dog"], "without": ["dog"], "scores": ["0.5"]}, [0.5, NEVER, NEVER, NEVER]),
    ],
)
def test_scores_and_classes(options: dict[str, list[str]], wanted: list[float]) -> None:
    assert lowest_scores(NAMES, **options).tolist() == wanted


def test_a_class_of_two_heads_is_both() -> None:
    assert lowest_scores(["cat", "dog", "cat"], only=["cat"]).tolist() == [0, NEVER, 0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"only": ["persn"]}, r"--classes: the bundle has no class 'persn'; .* Did you mean 'person'\?"),
        ({"without": ["Dog"]}, r"--except: .* Did you mean 'dog'\?"),
        ({"scores": ["dogg=0.5"]}, r"--score: .* Did you mean 'dog'\?"),
        ({"scores": ["high"]}, "--score takes numbers from 0 to 1"),
        ({"scores": ["nan"]}, "--score takes numbers from 0 to 1"),
        ({"scores": ["dog=1.5"]}, "--score takes numbers from 0 to 1"),
        ({"scores": ["dog=0.1", "dog=0.2"]}, "--score is given twice for dog"),
        ({"scores": ["0.1,0.2"]}, "--score is given twice for all classes"),
        ({"only": ["dog"], "without": ["dog"]}, "no class is left"),
    ],
)
def test_what_is_not_meant_is_one_sentence(options: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        lowest_scores(NAMES, **options)
