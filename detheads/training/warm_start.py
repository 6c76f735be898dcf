"""Start a training from the weights of another: all that does not depend on the classes, and the classes both know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.training.checkpoint import Checkpoint, load_checkpoint, load_file


@dataclass(frozen=True)
class WarmStart:
    """What a training took over.

    Attributes:
        source: the run or checkpoint file.
        sha256: of the checkpoint.
        known, new: names of the classes whose weights were taken over, and of those that start afresh.
        fresh: names of tensors that start afresh, because the other head has none like them.
    """

    source: str
    sha256: str
    known: tuple[str, ...]
    new: tuple[str, ...]
    fresh: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What was taken over, in words."""
        parts = [f"starts from the weights of {self.source}"]
        if self.known:
            parts.append(f"classes taken over: {', '.join(self.known)}")
        if self.new:
            parts.append(f"classes that start afresh: {', '.join(self.new)}")
        if self.fresh:
            parts.append(f"also afresh: {', '.join(self.fresh)}")
        return "; ".join(parts)


def load_source(source: str | Path) -> Checkpoint:
    """The weights to start from: the best of a run folder, or those of a checkpoint file.

    Raises:
        UserError: when there are none, or they are damaged.
    """
    source = Path(source)
    return load_file(source) if source.is_file() else load_checkpoint(source)


def take_over(
    head: Head, target: Checkpoint, source: Checkpoint, called: str, *, own_embeddings: bool = False
) -> WarmStart:
    """Fill a new head with the weights of a trained one.

    Tensors with an axis for the classes (found by building the head for one class more) are taken row by row for the
    classes of equal name; all others whole.

    Args:
        head: newly built, as ``target`` says; changed in place.
        called: the source's path, for sentences.
        own_embeddings: the head was given embeddings of its classes, which it keeps.

    Raises:
        UserError: when head, backbone, layers or the sizes of the head's options differ.
    """
    _require_alike(target, source, called)
    axes = class_axes(target)
    names = [category.name for category in target.categories]
    places = {category.name: place for place, category in reversed(list(enumerate(source.categories)))}
    rows = [(place, places[name]) for place, name in enumerate(names) if name in places]
    buffers = {name for name, _ in head.named_buffers()}
    state, fresh = dict(head.state_dict()), []
    for name, value in state.items():
        learned = source.tensors.get(name)
        if own_embeddings and name in buffers and name in axes:
            continue
        if learned is None or (name in axes and axes[name] is None):
            fresh.append(name)
        elif name in axes:
            state[name] = _rows(value, learned, axes[name] or 0, rows, target, source, called, name)
        elif learned.shape != value.shape:
            raise _differs(target, source, called, name)
        else:
            state[name] = learned
    head.load_state_dict(state)
    known = tuple(name for name in names if name in places)
    return WarmStart(
        called, source.checkpoint_sha256, known, tuple(name for name in names if name not in places), tuple(fresh)
    )


def _require_alike(target: Checkpoint, source: Checkpoint, called: str) -> None:
    pairs = {
        "head": (source.head_name, target.head_name),
        "backbone": (source.backbone_name, target.backbone_name),
        "backbone weights": (source.backbone_weights_sha256, target.backbone_weights_sha256),
        "backbone file": (source.backbone_file_sha256, target.backbone_file_sha256),
        "feature layers": (source.feature_spec.layers, target.feature_spec.layers),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            values = f" ({theirs}, here {ours})" if what in ("head", "backbone") else ""
            raise UserError(f"{called} has another {what}{values}; its weights mean nothing here, leave --init out.")


def class_axes(target: Checkpoint) -> Mapping[str, int | None]:
    """The axis of the classes in each tensor of a checkpoint's head that has one; None where it cannot be told."""
    counts = (len(target.categories), len(target.categories) + 1)
    with torch.random.fork_rng(devices=[]):
        shapes, more = (
            {
                name: tuple(value.shape)
                for name, value in registry.build(target.head_name, target.feature_spec, count, target.head_config)
                .state_dict()
                .items()
            }
            for count in counts
        )
    axes: dict[str, int | None] = {}
    for name, shape in shapes.items():
        if more[name] != shape:
            grown = [axis for axis, (few, many) in enumerate(zip(shape, more[name], strict=True)) if few != many]
            one = len(grown) == 1 and (shape[grown[0]], more[name][grown[0]]) == counts
            axes[name] = grown[0] if one else None
    return axes


def _rows(
    value: Tensor,
    learned: Tensor,
    axis: int,
    rows: Sequence[tuple[int, int]],
    target: Checkpoint,
    source: Checkpoint,
    called: str,
    name: str,
) -> Tensor:
    """``value`` with the rows of known classes from ``learned``."""
    expected = list(value.shape)
    expected[axis] = len(source.categories)
    if list(learned.shape) != expected:
        raise _differs(target, source, called, name)
    taken = value.clone()
    for place, other in rows:
        taken.select(axis, place).copy_(learned.select(axis, other))
    return taken


def _differs(target: Checkpoint, source: Checkpoint, called: str, name: str) -> UserError:
    options = [
        f"{key}={value}" for key, value in source.head_config.items() if target.head_config.get(key, value) != value
    ]
    cure = f"give its options: -O {' -O '.join(options)}" if options else "leave --init out"
    return UserError(f"the weights of {called} do not fit the head here ({name} has another shape); {cure}.")
