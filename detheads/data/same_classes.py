"""The classes of a dataset held against those of a model."""

from collections.abc import Sequence

from detheads.data.dataset import Category, Dataset
from detheads.foundation.errors import UserError, suggest

LISTED = 3
"""Classes of a kind that a sentence names."""


def of_these_classes(dataset: Dataset, wanted: Sequence[Category], holder: str) -> Dataset:
    """The dataset with a model's classes only, where it holds further ones.

    Args:
        wanted: the model's classes, by label.
        holder: what the model is called in a sentence, such as ``"the bundle"``.

    Raises:
        UserError: when it has not all of them, with their own ids and in their order.
    """
    if set(wanted) < set(dataset.categories):
        return dataset.restricted(wanted)
    if tuple(wanted) == dataset.categories:
        return dataset
    raise UserError(
        f"{dataset.name} {dataset.split} has {len(dataset.categories)} classes and {holder} {len(wanted)}: "
        f"{'; '.join(_differences(dataset, wanted, holder))}; verify with a dataset of the classes it was trained on."
    )


def _differences(dataset: Dataset, wanted: Sequence[Category], holder: str) -> list[str]:
    ids, wanted_ids = ({category.name: category.id for category in some} for some in (dataset.categories, wanted))
    parts = []
    missing = [name for name in wanted_ids if name not in ids]
    further = [name for name in ids if name not in wanted_ids]
    if missing:
        parts.append(f"only {holder} has {_some(missing)}")
    if further:
        hint = suggest(missing[0], further).strip() if missing else ""
        parts.append(f"only the dataset has {_some(further)}" + (f" ({hint})" if hint else ""))
    renumbered = [f"{name} ({wanted_ids[name]}, not {ids[name]})" for name in ids if wanted_ids.get(name) not in
                  (None, ids[name])]  # fmt: skip
    if renumbered:
        parts.append(f"their ids differ: {_some(renumbered)}")
    return parts or ["they stand in another order"]


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
