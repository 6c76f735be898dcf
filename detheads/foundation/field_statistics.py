"""What a bundle says of the pictures that it was proven on, for the field to be compared with."""

from typing import Annotated

from pydantic import Field, model_validator

from detheads.foundation.entry import Entry


class Histogram(Entry):
    """How often a number fell into each of equal bins between ``low`` and ``high``; beyond them it counts in the
    outermost."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    counts: list[Annotated[int, Field(ge=0)]] = Field(min_length=2, max_length=1024)

    @model_validator(mode="after")
    def _ordered(self) -> "Histogram":
        if not self.low < self.high:
            raise ValueError("low is not below high")
        return self


class FieldStatistics(Entry):
    """What the pictures of the proof looked like and what PyTorch found in them, to compare the field with.

    Each picture counts once in each histogram; :mod:`detheads.deploy.monitor.measures` says what is measured.
    """

    dataset: str
    split: str
    images: int = Field(ge=1)
    counted_from: list[Annotated[float, Field(ge=0, le=1)]]
    """The score from which a detection of each class is counted."""
    histograms: dict[str, Histogram]
