"""Loss terms of the latest steps, which stay on their device until somebody wants to see them."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor


class LossWindow:
    """Collects loss terms step by step; reading them waits for the device once."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._new: list[Mapping[str, Tensor]] = []

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Take the terms of a step, scalars on the device."""
        self._new.append(losses)

    def rows(self) -> list[dict[str, float]]:
        """For each step ``loss``, the sum, and ``loss_NAME`` for each term."""
        if self._new:
            values = torch.stack([torch.stack(list(losses.values())) for losses in self._new]).tolist()
            for losses, terms in zip(self._new, values, strict=True):
                named = {f"loss_{name}": value for name, value in zip(losses, terms, strict=True)}
                self._rows.append({"loss": sum(terms), **named})
            self._new.clear()
        return self._rows

    def means(self) -> dict[str, float]:
        """Each number's mean over the steps; at least one was taken."""
        rows = self.rows()
        return {name: fmean(row[name] for row in rows) for name in rows[0]}

    def fill(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Hold these steps and no other."""
        self._rows, self._new = [dict(row) for row in rows], []
