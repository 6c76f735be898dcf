"""What two caches must have in common to train on one and be judged on the other, and what they must not."""

from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError

MOST_NAMED = 5
"""Classes that a sentence names."""

_CALLED = {
    "backbone": "backbone",
    "weights_sha256": "backbone weights",
    "backbone_file_sha256": "backbone file",
    "height": "input height",
    "width": "input width",
    "layers": "feature layers",
    "main": "main feature layers",
}


def require_trainable(train: FeatureCache, val: FeatureCache) -> None:
    """Refuse, before any work, what could end in no result.

    Raises:
        UserError: when the caches differ in features or classes (naming them), or one has no object that counts.
    """
    require_same_features(train, val)
    train.require_objects("train on")
    val.require_objects("evaluate on")


def require_same_features(train: FeatureCache, val: FeatureCache) -> None:
    """Refuse caches of other features or classes.

    Raises:
        UserError: naming what differs.
    """
    for key, called in _CALLED.items():
        first, second = getattr(train.manifest.settings, key), getattr(val.manifest.settings, key)
        if first != second:
            values = "" if key == "layers" or key.endswith("sha256") else f" ({_plain(first)} and {_plain(second)})"
            raise UserError(
                f"{train.folder} and {val.folder} differ in their {called}{values}; build both with the same "
                "--backbone, --weights, --size and --layers."
            )
    difference = _class_difference(train, val)
    if difference:
        raise UserError(
            f"{train.folder} and {val.folder} have different classes: {difference}; give both splits the same list of "
            "classes and build the caches again."
        )


def trained_on_too(train: FeatureCache, val: FeatureCache) -> int:
    """How many pictures of the validation cache are in the training cache, which the AP by which ``best`` is chosen
    then partly measures by heart."""
    known = {image.sha256 for image in train.manifest.images}
    return sum(image.sha256 in known for image in val.manifest.images if image.sha256)


def _class_difference(train: FeatureCache, val: FeatureCache) -> str:
    """What differs between the classes of two caches, in words; empty when nothing does."""
    first, second = train.dataset.categories, val.dataset.categories
    if first == second:
        return ""
    names, others = [c.name for c in first], [c.name for c in second]
    parts = [
        f"only {cache.folder} has {_some([name for name in own if name not in foreign])}"
        for cache, own, foreign in ((train, names, others), (val, others, names))
        if set(own) - set(foreign)
    ]
    if parts:
        return ", ".join(parts)
    ids = {category.name: category.id for category in second}
    for category in first:
        if ids[category.name] != category.id:
            return f"{category.name!r} has the id {category.id} in the one and {ids[category.name]} in the other"
    return f"the order is {_some(names)} in the one and {_some(others)} in the other"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
