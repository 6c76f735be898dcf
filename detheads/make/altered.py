"""Altered copies of the training pictures, where there is time for them: other colours, crops, zooms, mirror images.

On coco-person three copies of each picture are worth more than longer training (docs/results.md: AP 0.243 against
0.222); on a dataset of another kind they may be worth nothing, so that they are tried, not taken for granted.
"""

from detheads.backbones.backbone import Backbone
from detheads.cache.builder import build_cache, settings_for
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.data.augment import augment_dataset
from detheads.foundation.progress import Progress, under
from detheads.make.caching import Caches
from detheads.make.request import Request

COPIES = 3
ALTERING_SECONDS = 0.05
"""Altering and writing a picture of 512 pixels takes 0.03 to 0.05 s on one core of an AMD EPYC."""


def altered_pictures(caches: Caches) -> int:
    return (COPIES + 1) * len(caches.learned.images)


def altered_bytes(caches: Caches, encoder: Backbone) -> int:
    """Of their cache."""
    return altered_pictures(caches) * settings_for(encoder).bytes_per_image


def altered_seconds(caches: Caches, picture_seconds: float) -> float:
    """What altering and caching take."""
    return altered_pictures(caches) * (picture_seconds + ALTERING_SECONDS)


def cache_altered(request: Request, caches: Caches, encoder: Backbone, on_progress: Progress) -> FeatureCache:
    """The cache of the pictures and their altered copies; what is there already is not made again.

    Raises:
        UserError: when a picture cannot be read, or the disk is full.
    """
    place, split = caches.train.folder.parent, caches.learned.split
    pictures = place / "altered-pictures"
    if not pictures.exists():
        augment_dataset(
            caches.learned,
            pictures,
            COPIES,
            seed=request.seed,
            skip_bad=request.skip_bad,
            on_progress=on_progress,
        )
    build_cache(
        read_dataset(pictures, split),
        encoder,
        place / "altered",
        skip_bad=request.skip_bad,
        on_progress=under("caching altered copies", on_progress),
    )
    return FeatureCache(place / "altered")
