"""Pictures that a dataset holds more than once, within a split and across its splits."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detheads.data.duplicates import Fingerprint, duplicate_groups
from detheads.data.findings import Finding, counted
from detheads.data.parsed import Severity

Picture = tuple[str, Path]
"""A split and a file of it."""


@dataclass(frozen=True)
class Repeats:
    """Groups of pictures that belong together.

    Attributes:
        equal: groups of files of equal content.
        near: groups of equal and nearly equal pictures, in which not all are equal.
    """

    equal: Sequence[Sequence[Picture]]
    near: Sequence[Sequence[Picture]]


def find_repeats(prints: Mapping[Picture, Fingerprint]) -> Repeats:
    """The groups among the pictures of all splits; the rule stands in :mod:`detheads.data.duplicates`."""
    pictures, known = list(prints), list(prints.values())
    by_content: dict[str, list[Picture]] = defaultdict(list)
    for picture, one in prints.items():
        by_content[one.sha256].append(picture)
    near = duplicate_groups(known)
    return Repeats(
        [group for group in by_content.values() if len(group) > 1],
        [[pictures[i] for i in group] for group in near if len({known[i].sha256 for i in group}) > 1],
    )


def judge_repeats(repeats: Repeats) -> list[Finding]:
    """Pictures of one split that another one has too, and repetitions within a split."""
    return [
        *_leaks(repeats.equal, "equal"),
        *_leaks(repeats.near, "nearly equal"),
        *_copies(repeats.equal, "equal", "warning"),
        *_copies(repeats.near, "nearly equal", "note"),
    ]


def _leaks(groups: Sequence[Sequence[Picture]], how: str) -> Iterator[Finding]:
    between: dict[tuple[str, ...], list[Sequence[Picture]]] = defaultdict(list)
    for group in groups:
        splits = tuple(sorted({split for split, _ in group}, key=lambda split: (not split.startswith("train"), split)))
        if len(splits) > 1:
            between[splits].append(group)
    for splits, leaks in between.items():
        count = sum(len(group) for group in leaks)
        example = " and ".join(str(next(path for name, path in leaks[0] if name == split)) for split in splits)
        sentence = (
            f"{count} pictures of {' and '.join(splits)} are {how} across these splits ({example}), so figures will be "
            "too good: 'detheads data split' keeps such pictures together"
        )
        yield Finding("warning", f"{how} pictures in several splits", sentence, count)


def _copies(groups: Sequence[Sequence[Picture]], how: str, severity: Severity) -> Iterator[Finding]:
    within: dict[str, list[list[Path]]] = defaultdict(list)
    for group in groups:
        for split in dict.fromkeys(name for name, _ in group):
            same = [path for name, path in group if name == split]
            if len(same) > 1:
                within[split].append(same)
    for split, copies in within.items():
        count = sum(len(group) - 1 for group in copies)
        first, other = copies[0][:2]
        sentence = f"{split}: {counted(count, 'picture')} {how} to another, such as {other} to {first}"
        yield Finding(severity, f"{how} pictures", sentence, count)
