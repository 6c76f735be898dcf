"""Pictures that are there twice: of equal content, or the same picture saved, scaled or taken once more.

The rule: each picture is averaged to 36x32 grey blocks. Two are near-duplicates when at most ``MOST_BITS`` of the 64
bits of their difference hashes differ (Krawetz 2013, "Kind of like that": is a block brighter than its left
neighbour?) *and* their block averages, each brought to mean 0 and deviation 1, differ by at most
``LARGEST_DIFFERENCE`` on average. The hash alone takes unlike pictures of a plain ground for alike. Re-encoded, scaled,
brightened and slightly cropped copies pass, and frames of a scene that hardly moves; mirrored and turned ones do not.
"""

from collections.abc import Sequence
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

_ROWS, _COLUMNS = 1024, 4096
"""Pictures compared with each other at once; 16 MiB."""


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


def duplicate_groups(prints: Sequence[Fingerprint]) -> list[list[int]]:
    """All pictures, as indices, in groups of equal and nearly equal ones; most groups hold one picture.

    Being nearly equal is passed on: the first and the last frame of a slow scene are of one group. Groups and the
    pictures in them are in ascending order.
    """
    first_of: dict[str, int] = {}
    first = np.array([first_of.setdefault(known.sha256, index) for index, known in enumerate(prints)], dtype=np.int64)
    group = np.arange(len(prints))
    telling = [index for index in first_of.values() if prints[index].blocks.std() >= LEAST_SPREAD]
    group[telling] = np.array(telling, dtype=np.int64)[_near_groups([prints[index] for index in telling])]
    members: dict[int, list[int]] = {}
    for index, number in enumerate(group[first].tolist()):
        members.setdefault(number, []).append(index)
    return list(members.values())


def _near_groups(prints: Sequence[Fingerprint]) -> NDArray[np.int64]:
    """For each picture the first one of its group, ``[N]``.

    Every picture is compared with every other, which takes 5 seconds for 50,000.
    """
    group = np.arange(len(prints))
    if not prints:
        return group
    # Of two rows of signs the product is 64 less twice the number of bits that differ.
    signs = np.where(np.stack([known.bits for known in prints]), 1.0, -1.0).astype(np.float32)  # [N, 64]
    blocks = np.stack([known.blocks for known in prints])  # [N, 288]
    for top in range(0, len(prints), _ROWS):
        for left in range(top, len(prints), _COLUMNS):
            alike = signs[top : top + _ROWS] @ signs[left : left + _COLUMNS].T >= 64 - 2 * MOST_BITS
            for row in np.flatnonzero(alike.sum(axis=1) > (left == top)) + top:
                others = np.flatnonzero(alike[row - top]) + left
                others = others[group[others] != group[row]]
                near = others[_difference(blocks[row], blocks[others]) <= LARGEST_DIFFERENCE]
                if len(near):
                    merged = np.isin(group, group[[row, *near]])
                    group[merged] = group[merged].min()
    return group


def _difference(one: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean absolute difference of block averages ``[288]`` and ``[M, 288]``, each brought to mean 0 and deviation 1."""
    return np.abs(_normal(others) - _normal(one)).mean(axis=-1)


def _normal(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = blocks.astype(np.float32)
    values -= values.mean(axis=-1, keepdims=True)
    values /= values.std(axis=-1, keepdims=True)
    return values
