"""Decisions are the choice itself, are written down for who asks, and another program's are judged before followed."""

import pytest
import torch

from detheads.headkit.peaks import FLOOR, peaks
from detheads.ops.decisions import decide, recording
from detheads.ops.ranking import highest

SCORES = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.9]])


def test_without_a_listener_a_decision_is_the_choice_itself() -> None:
    assert decide(SCORES, lambda scores: scores > 0.6).tolist() == [[False, True, False, True, True]]
    values, indices = highest(SCORES, 3)
    assert indices.tolist() == [[1, 4, 3]]
    assert torch.equal(values, SCORES.gather(1, indices))


def test_decisions_are_written_down_in_order() -> None:
    with recording() as journal:
        highest(SCORES, 2)
        decide(SCORES, torch.round)
    highest(SCORES, 1)
    assert [decision.choice.tolist() for decision in journal.decisions] == [[[1, 4]], [[0, 1, 0, 1, 1]]]
    assert all(decision.values is SCORES for decision in journal.decisions)


def test_another_programs_choice_is_followed_where_it_follows_from_its_own_numbers() -> None:
    nearly = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.9000001]])
    with recording([(nearly, torch.tensor([[4, 1]]))]) as journal:
        values, indices = highest(SCORES, 2)
    assert indices.tolist() == [[4, 1]]
    assert torch.equal(values, SCORES[:, [4, 1]])
    (decision,) = journal.decisions
    assert decision.follows
    assert decision.choice.tolist() == [[1, 4]]


@pytest.mark.parametrize(
    "choice", [[[1, 3]], [[1, 1]], [[1, 7]], [[-1, 1]], [[1, 4, 3]]], ids=["worse", "twice", "beyond", "before", "more"]
)
def test_a_choice_that_does_not_follow_is_not_followed(choice: list[list[int]]) -> None:
    with recording([(SCORES, torch.tensor(choice))]) as journal:
        _, indices = highest(SCORES, 2)
    assert indices.tolist() == [[1, 4]]
    assert not journal.decisions[0].follows


def test_of_equal_values_either_may_be_chosen() -> None:
    with recording([(SCORES, torch.tensor([[4, 1]]))]) as journal:
        _, indices = highest(SCORES, 2)
    assert indices.tolist() == [[4, 1]]
    assert journal.decisions[0].follows


def test_a_peak_that_another_program_sees_is_a_peak_here() -> None:
    here, there = torch.zeros(2, 1, 1, 2, 3).unbind()
    here[..., 1, 1], here[..., 1, 2] = 1.0, 1.0000001
    there[..., 1, 1], there[..., 1, 2] = 1.0000001, 1.0
    with recording() as journal:
        assert (peaks(there) > FLOOR).nonzero().tolist() == [[0, 0, 1, 1]]
    with recording([(there, journal.decisions[0].choice)]):
        assert (peaks(here) > FLOOR).nonzero().tolist() == [[0, 0, 1, 1]]
