"""Whether caches hold the same kind of features and the same classes; where they do not, what differs in words."""

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


def require_same_features(first: FeatureCache, second: FeatureCache) -> None:
    """Refuse caches of other features or classes.

    Raises:
        UserError: naming what differs.
    """
    for key, called in _CALLED.items():
        one, other = _setting(first, key), _setting(second, key)
        if one != other:
            values = "" if key == "layers" or key.endswith("sha256") else f" ({_plain(one)} and {_plain(other)})"
            raise UserError(
                f"{first.folder} and {second.folder} differ in their {called}{values}; build both with the same "
                "--backbone, --weights, --size and --layers."
            )
    difference = _class_difference(first, second)
    if difference:
        raise UserError(
            f"{first.folder} and {second.folder} have different classes: {difference}; give both the same list of "
            "classes and build the caches again."
        )


def _setting(cache: FeatureCache, key: str) -> object:
    """A setting; of the layers those that a backbone gives, as what lies beside them is for training alone."""
    return cache.feature_spec.computed.layers if key == "layers" else getattr(cache.manifest.settings, key)


def _class_difference(first: FeatureCache, second: FeatureCache) -> str:
    """What differs between the classes of two caches, in words; empty when nothing does."""
    one, other = first.dataset.categories, second.dataset.categories
    if one == other:
        return ""
    names, others = [c.name for c in one], [c.name for c in other]
    parts = [
        f"only {cache.folder} has {_some([name for name in own if name not in foreign])}"
        for cache, own, foreign in ((first, names, others), (second, others, names))
        if set(own) - set(foreign)
    ]
    if parts:
        return ", ".join(parts)
    ids = {category.name: category.id for category in other}
    for category in one:
        if ids[category.name] != category.id:
            return f"{category.name!r} has the id {category.id} in the one and {ids[category.name]} in the other"
    return f"the order is {_some(names)} in the one and {_some(others)} in the other"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
