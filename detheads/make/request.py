"""What a user asks for: a dataset, a bundle, a time; and what of the choices he makes himself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detheads.make.budget import Budget
from detheads.training.config import Precision

BACKBONE = "effnet_lite0"
"""The first backbone where none is named: its weights come with the installation, under a licence that allows all use,
and on the development data it beats the ViT-S that could be measured (docs/results.md: AP 0.216 against 0.130)."""
WORK_SUFFIX = ".make"
"""Ending of the folder beside the bundle that keeps caches, runs and the page."""


@dataclass(frozen=True)
class Candidate:
    """A backbone that may be chosen, with its weight file where it has one of its own."""

    name: str
    weights: Path | None = None


@dataclass(frozen=True)
class Request:
    """One making.

    Attributes:
        data: the dataset's folder.
        output: the bundle, ``NAME.detheads``.
        work: folder for caches, runs and the page.
        backbone, weights: that is used, or the first of several that are compared.
        rivals: the others.
        named: whether the user named them.
        size: input height and width in pixels; chosen when None.
        head, options: the only head to train; chosen when None.
        head_files: Python files of heads that are not in the package.
        epochs: of each training; chosen when None.
        precision: of the training; the faster one when None.
        device: torch's name; the first GPU where there is one when empty.
        threads: of the CPU; all that are allowed when None.
        skip_bad: leave out pictures and annotations that cannot be used, and list them.
    """

    data: Path
    output: Path
    work: Path
    budget: Budget
    backbone: str = BACKBONE
    weights: Path | None = None
    rivals: Sequence[Candidate] = ()
    named: bool = False
    size: tuple[int, int] | None = None
    head: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    head_files: Sequence[Path] = ()
    epochs: int | None = None
    precision: Precision | None = None
    seed: int = 0
    device: str = ""
    threads: int | None = None
    skip_bad: bool = False
    force: bool = False

    @property
    def candidates(self) -> list[Candidate]:
        """The backbones that may be used, the first one first."""
        return [Candidate(self.backbone, self.weights), *self.rivals]


def work_folder(output: Path) -> Path:
    """``my.make`` beside ``my.detheads``."""
    return output.with_suffix(WORK_SUFFIX)
