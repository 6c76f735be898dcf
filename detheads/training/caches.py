"""What two caches must have in common to train on one and be judged on the other, and what they must not."""

from detheads.cache.agreement import require_same_features
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.training.config import Mirror


def require_trainable(train: FeatureCache, val: FeatureCache) -> None:
    """Refuse, before any work, what could end in no result.

    Raises:
        UserError: when the caches differ in features or classes (naming them), or one has no object that counts.
    """
    require_same_features(train, val)
    train.require_objects("train on")
    val.require_objects("evaluate on")


def as_mirrored(cache: FeatureCache, mirror: Mirror) -> FeatureCache:
    """The training cache as :attr:`TrainConfig.mirror <detheads.training.config.TrainConfig>` wants it read.

    Raises:
        UserError: when it wants features of mirrored images and the cache holds none.
    """
    if mirror == "images" and not cache.has_flips:
        raise UserError(
            f"{cache.folder} holds no mirrored images; build it with --flips, which doubles it, or train with "
            "--mirror features."
        )
    return cache.turning_features() if mirror == "features" else cache


def trained_on_too(train: FeatureCache, val: FeatureCache) -> int:
    """How many pictures of the validation cache are in the training cache, which the AP by which ``best`` is chosen
    then partly measures by heart."""
    known = {image.sha256 for image in train.manifest.images}
    return sum(image.sha256 in known for image in val.manifest.images if image.sha256)
