"""Which split each picture goes to: stratified by class, pictures that belong together kept together."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def partition(
    groups: Sequence[Sequence[int]], present: NDArray[np.bool_], shares: Mapping[str, float], seed: int = 0
) -> dict[str, list[int]]:
    """Divide pictures into splits whose classes are as frequent as in the whole.

    Iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label data") over groups: the class
    with the fewest pictures left is dealt out first, each group to the split that lacks the most pictures of it, ties
    to the split that lacks the most pictures. Pictures without objects are dealt out like a class. Shares are met as
    closely as groups allow.

    Args:
        groups: indices of the pictures that must stay together; each picture in one group.
        present: which classes a picture has objects of, ``[pictures, classes]``.
        shares: split -> share of the pictures; they add up to 1.
        seed: the order in which groups of the same class are dealt out.

    Returns:
        split -> indices of its pictures, ascending.
    """
    names, share = list(shares), np.array(list(shares.values()))
    bare = ~present.any(axis=1, keepdims=True)
    labels = np.concatenate([present, bare], axis=1).astype(np.int64)  # [pictures, classes + 1]
    counts = np.array([labels[list(group)].sum(axis=0) for group in groups]).reshape(len(groups), labels.shape[1])
    sizes = np.array([len(group) for group in groups], dtype=np.int64)
    wanted = share[:, None] * counts.sum(axis=0)  # [splits, classes + 1]
    wanted_pictures = share * sizes.sum()
    # Large groups first, while there is room for them; equal ones in the seed's order.
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(-sizes[order], kind="stable")]
    place = np.full(len(groups), -1)
    while (left := place == -1).any():
        remaining = counts[left].sum(axis=0)
        label = int(np.argmin(np.where(remaining > 0, remaining, np.iinfo(np.int64).max)))
        for group in order:
            if left[group] and counts[group, label]:
                # Sorted by the last key first.
                split = int(np.lexsort((-wanted_pictures, -wanted[:, label]))[0])
                place[group] = split
                wanted[split] -= counts[group]
                wanted_pictures[split] -= sizes[group]
    return {
        name: sorted(index for group, chosen in zip(groups, place, strict=True) if chosen == split for index in group)
        for split, name in enumerate(names)
    }
