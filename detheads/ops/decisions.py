"""Choices that a network makes between numbers: which places are the best, where a map has its peaks, what rounds up.

Rounding may turn a choice between near-equal numbers, and everything behind it, although two programs compute the same.
Whoever compares two programs therefore needs three answers instead of one: are the numbers equal that were chosen
between, does the choice follow from them, and is everything equal behind *the same* choice. A head that makes its
choices with :func:`decide` can be asked all three; anywhere else :func:`decide` is the choice itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

Choose = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Decision:
    """One choice, and another program's choice in the same place.

    Attributes:
        values: what was chosen between.
        choice: what was chosen: indices along a dimension, or a tensor like ``values``.
        others: what the other program chose between and what it chose; None without another program.
        follows: whether its choice is what the rule says of its own values. Of equal values either may be chosen.
    """

    values: Tensor
    choice: Tensor
    others: tuple[Tensor, Tensor] | None = None
    follows: bool = True


@dataclass
class Journal:
    """The decisions of one forward pass, in order.

    Attributes:
        replayed: values and choice of each decision of another program, whose choices take the place of this one's own
            where they follow from its values.
    """

    replayed: Sequence[tuple[Tensor, Tensor]] = ()
    decisions: list[Decision] = field(default_factory=list)

    def decide(self, values: Tensor, choose: Choose, dim: int | None) -> Tensor:
        """Write a decision down and give the choice to go on with."""
        own, number = choose(values), len(self.decisions)
        if number >= len(self.replayed):
            self.decisions.append(Decision(values, own))
            return own
        others, choice = (tensor.to(own.device) for tensor in self.replayed[number])
        follows = others.shape == values.shape and _follows(choose(others), others, choice, dim)
        self.decisions.append(Decision(values, own, (others, choice), follows))
        return choice.to(own.dtype) if follows else own


def _follows(expected: Tensor, values: Tensor, choice: Tensor, dim: int | None) -> bool:
    if choice.shape != expected.shape:
        return False
    if dim is None:
        return torch.equal(choice, expected)
    twice = (choice.sort(dim).values.diff(dim=dim) == 0).any()
    if bool(((choice < 0) | (choice >= values.shape[dim])).any()) or bool(twice):
        return False
    return torch.equal(values.gather(dim, choice), values.gather(dim, expected))


_journal: ContextVar[Journal | None] = ContextVar("journal", default=None)


def decide(values: Tensor, choose: Choose, *, dim: int | None = None) -> Tensor:
    """``choose(values)``, told to whoever compares two programs.

    Example::

        best = decide(scores, lambda scores: scores.argmax(dim=2, keepdim=True), dim=2)
        possible = decide(sides, lambda sides: sides > 0)

    Args:
        values: floats of any shape, a batch first.
        choose: the rule. It depends on nothing that is computed but its argument.
        dim: give it when the choice is indices along this dimension of ``values``, each at most once.

    Returns:
        The choice, without a gradient of its own.
    """
    journal = _journal.get()
    return choose(values) if journal is None else journal.decide(values, choose, dim)


@contextmanager
def recording(replayed: Sequence[tuple[Tensor, Tensor]] = ()) -> Iterator[Journal]:
    """Write down the decisions of the block; those of another program are followed where they are given."""
    journal = Journal(replayed)
    token = _journal.set(journal)
    try:
        yield journal
    finally:
        _journal.reset(token)
