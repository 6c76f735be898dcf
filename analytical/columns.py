"""What the columns of a fitted estimator's rows are, in the order of its coefficients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detheads.analytical.anchors import ANCHORS
from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.estimators import load_estimators
from detheads.analytical.fit import ESTIMATORS_NAME
from detheads.backbones.features import FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit.blocks import join_stride
from detheads.training.checkpoint import build_head, load_checkpoint

PLACES = ("x of the cell's centre, from -1/2 to 1/2", "y of the cell's centre, from -1/2 to 1/2")
GEOMETRY = ("log width", "log height", "log width squared", "log height squared", "log width x log height")
CENTRE = ("x of the box's centre, from -1/2 to 1/2", "y of the box's centre, from -1/2 to 1/2")
"""Sides in shares of the input."""


OFFSETS = ("x offset", "y offset", "log width ratio", "log height ratio")


@dataclass(frozen=True)
class Described:
    """An estimator of a fitted model.

    Attributes:
        kind: its class in scikit-learn.
        columns: what each column of its rows is, in the order of its coefficients.
        outputs: what it tells, in order.
        summary: the columns in a phrase.
    """

    name: str
    kind: str
    columns: Sequence[str]
    outputs: Sequence[str]
    summary: str


def describe_estimators(model: str | Path) -> list[Described]:
    """The estimators of a fitted model.

    Args:
        model: folder that ``detheads analytical fit`` wrote.

    Raises:
        UserError: when it holds no closed-form fit, or its estimators are gone or damaged.
    """
    checkpoint = load_checkpoint(Path(model))
    head = build_head(checkpoint)
    if not isinstance(head, ClosedForm):
        raise UserError(f"{model} holds a head {checkpoint.head_name!r}; estimators belong to a closed-form fit.")
    classes = [category.name for category in checkpoint.categories]
    return [
        Described(
            name,
            type(estimator).__name__,
            estimator_columns(head, classes, name),
            _outputs(classes, name),
            summarise(head, classes, name),
        )
        for name, estimator in load_estimators(Path(model) / ESTIMATORS_NAME).items()
    ]


def estimator_columns(head: ClosedForm, classes: list[str], name: str) -> list[str]:
    """What each column is that an estimator of ``estimators.safetensors`` was fitted on.

    Args:
        classes: names of the head's classes.
        name: of the estimator, such as ``discriminant``, ``anchor_level0``, ``box_anchor3`` or ``round1_score``.
    """
    if name.startswith("round"):
        return list(_round_columns(head, classes))
    cells = list(_cell_columns(head))
    return cells if name.startswith("discriminant") else [*cells, *PLACES]


def summarise(head: ClosedForm, classes: list[str], name: str) -> str:
    """The same in a phrase with counts, such as ``9 neighbours x 64 components``."""
    config = head.config
    if name.startswith("round"):
        sampled = f"{config.components} components x {config.grid} x {config.grid} points over the box"
        scores = f"{len(classes)} {'score' if len(classes) == 1 else 'scores'}"
        hidden = f" + {config.hidden} random features" if config.hidden else ""
        return f"{sampled} + {scores} + {len(GEOMETRY) + len(CENTRE)} of shape and place{hidden}"
    cells = (
        f"{len(head.center)} channels of the cell's frequency band"
        if config.view == "bands"
        else f"3 x 3 neighbours x {config.components} principal components"
    )
    return cells if name.startswith("discriminant") else f"{cells} + the cell's place (x, y)"


def _outputs(classes: list[str], name: str) -> list[str]:
    if name.startswith("discriminant"):
        return ["background", *classes]
    if name.startswith("anchor"):
        return [f"share of anchor {index}" for index in range(ANCHORS)]
    return [f"IoU with {each}" for each in classes] if name.endswith("_score") else list(OFFSETS)


def _cell_columns(head: ClosedForm) -> Iterator[str]:
    """What the first stage sees of a cell."""
    if head.config.view == "bands":
        yield from _joined_channels(head.spec)
        return
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            where = "the cell" if row == column == 0 else f"the neighbour {_offset(row, column)}"
            yield from (f"principal component {index} of {where}" for index in range(head.config.components))


def _round_columns(head: ClosedForm, classes: list[str]) -> Iterator[str]:
    """What a round sees of a box."""
    config = head.config
    for index in range(config.components):
        for row in range(config.grid):
            for column in range(config.grid):
                yield f"principal component {index} at row {row}, column {column} of the points over the box"
    yield from (f"score of {name} so far" for name in classes)
    yield from (*GEOMETRY, *CENTRE)
    yield from (f"random rectified feature {index}" for index in range(config.hidden))


def _joined_channels(spec: FeatureSpec) -> Iterator[str]:
    """The channels of the main layers on one grid; a finer layer is folded, its pixels side by side."""
    stride = join_stride(spec)
    for layer in spec.main_layers:
        fold = max(1, stride // layer.stride)
        for channel in range(layer.channels):
            for pixel in range(fold * fold):
                folded = f" at row {pixel // fold}, column {pixel % fold} of its {fold} x {fold} pixels"
                yield f"channel {channel} of {layer.name}{folded if fold > 1 else ''}"


def _offset(row: int, column: int) -> str:
    parts = [name for name, step in (("above", -1), ("below", 1)) if row == step]
    parts += [name for name, step in (("left", -1), ("right", 1)) if column == step]
    return " ".join(parts)
