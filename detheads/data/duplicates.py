"""Pictures that are there twice: of equal content, or the same picture saved, scaled or taken once more.

The rule: each picture is averaged to 36x32 grey blocks. Two are near-duplicates when at most ``MOST_BITS`` of the 64
bits of their difference hashes differ (Krawetz 2013, "Kind of like that": is a block brighter than its left
neighbour?) *and* their block averages, each brought to mean 0 and deviation 1, differ by at most
``LARGEST_DIFFERENCE`` on average. The hash alone takes unlike pictures of a plain ground for alike. Re-encoded, scaled,
brightened and slightly cropped copies pass, and frames of a scene that hardly moves; mirrored and turned ones do not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_BITS = 10
"""Of 64. Re-encoded, halved and brightened copies of 1,300 photographs differed in up to 10."""
LARGEST_DIFFERENCE = 0.25
"""In deviations. Such copies reached 0.25, consecutive shots of one scene 0.29; unlike photographs whose hashes agree
start at 0.43 (1,300 photographs of five datasets)."""
LEAST_SPREAD = 4.0
"""Deviation of the block averages in grey values; below it a picture is too plain to be told from another."""

_ROWS = 1024
"""Pictures compared with all others at once."""


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a picture to find it again, a few hundred bytes."""

    sha256: str
    """Of the file."""
    bits: NDArray[np.bool_]
    """The difference hash, ``[64]``."""
    blocks: NDArray[np.uint8]
    """Average grey values of 18x16 blocks, ``[288]``."""


def fingerprint(picture: Image.Image, sha256: str) -> Fingerprint:
    """The fingerprint of a decoded picture of any mode and size."""
    grey = picture.convert("L").resize((36, 32), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float32)
    coarse = values.reshape(8, 4, 9, 4).mean(axis=(1, 3))
    fine = values.reshape(16, 2, 18, 2).mean(axis=(1, 3))
    return Fingerprint(sha256, (coarse[:, 1:] > coarse[:, :-1]).ravel(), np.rint(fine).astype(np.uint8).ravel())


def near_duplicates(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Pairs of pictures that are near-duplicates and not of equal content, as indices, the smaller one first.

    Of several pictures of equal content only the first one is paired with others.
    """
    first_of: dict[str, int] = {}
    for index, known in enumerate(prints):
        first_of.setdefault(known.sha256, index)
    chosen = np.array([index for index in first_of.values() if prints[index].blocks.std() >= LEAST_SPREAD], np.int64)
    if len(chosen) < 2:
        return
    # Of two rows of signs the product is 64 less twice the number of bits that differ.
    signs = np.where(np.stack([prints[index].bits for index in chosen]), 1.0, -1.0).astype(np.float32)  # [N, 64]
    for start in range(0, len(chosen), _ROWS):
        alike = signs[start : start + _ROWS] @ signs[start:].T >= 64 - 2 * MOST_BITS
        for row, column in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
            one, other = int(chosen[start + row]), int(chosen[start + column])
            if _difference(prints[one].blocks, prints[other].blocks) <= LARGEST_DIFFERENCE:
                yield one, other


def duplicate_groups(prints: Sequence[Fingerprint], pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """All pictures as groups that belong together: through equal content, or ``pairs`` of near-duplicates, or both.

    Groups and the indices in them are in ascending order; most groups hold one picture.
    """
    leader = list(range(len(prints)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    first_of: dict[str, int] = {}
    equal = [(first_of.setdefault(known.sha256, index), index) for index, known in enumerate(prints)]
    for one, other in (*equal, *pairs):
        low, high = sorted((find(one), find(other)))
        leader[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(len(prints)):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())


def _difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two pictures' block averages, each with mean 0 and deviation 1."""
    normal = [(blocks - blocks.mean()) / blocks.std() for blocks in (one.astype(np.float64), other.astype(np.float64))]
    return float(np.abs(normal[0] - normal[1]).mean())
