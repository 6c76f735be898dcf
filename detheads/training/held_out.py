"""Training pictures that are not trained on: what is chosen among the checkpoints of a sweep is chosen by these.

Which they are depends on the pictures' own digests: another training on the same pictures, with another seed, other
boxes or further pictures, holds out the same ones, so that a head that starts from another's weights is not judged by
what those have seen. Equal pictures are on one side.
"""

import hashlib

from detheads.cache.part import PartOfCache
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.training.config import MOST_HELD_OUT, TrainConfig

PARTS = 10
"""One picture of so many is held out where nobody says how many."""


def divided(cache: FeatureCache, config: TrainConfig) -> tuple[FeatureCache, FeatureCache | None]:
    """What is trained on, and what is held out; None without a sweep.

    Raises:
        UserError: when nothing is left to train on, or there is no object on one side.
    """
    if not config.sweep:
        return cache, None
    count = config.hold_out or min(MOST_HELD_OUT, -(-len(cache) // PARTS))
    if count >= len(cache):
        raise UserError(
            f"--hold-out {count} leaves none of the {len(cache)} training pictures to train on; give fewer."
        )
    ranks = [_rank(image.sha256 or image.file_name) for image in cache.manifest.images]
    last = sorted(ranks)[count - 1]
    held = PartOfCache(cache, [position for position, rank in enumerate(ranks) if rank <= last])
    learned = PartOfCache(cache, [position for position, rank in enumerate(ranks) if rank > last])
    if not len(learned):
        raise UserError(f"the {len(cache)} training pictures are all equal, so that none can be held out for a sweep.")
    learned.require_objects("train on besides the held-out pictures")
    held.require_objects(f"judge a sweep by in the {len(held)} held-out pictures (--hold-out for more)")
    return learned, held


def _rank(picture: str) -> bytes:
    """A number that says nothing of the picture, and is the same everywhere."""
    return hashlib.sha256(f"held out {picture}".encode()).digest()
