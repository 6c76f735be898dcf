"""Training some parameters of a trained head alone: all else stays as it is, bit for bit.

The head computes as in use, so that no buffer hears of the training and no normalisation counts a batch.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from detheads.foundation.errors import UserError, suggest
from detheads.headkit.contract import Head

SHORTHANDS: Mapping[str, tuple[str, ...]] = MappingProxyType({"cls_calib": ("cls_project", "cls_bias", "logit_scale")})
"""Names for several at once. ``cls_calib`` is the source's last step, the calibration of the cosine classifier
(phanerozoic/detection-heads)."""


def chosen(head: Head, names: Sequence[str]) -> tuple[str, ...]:
    """The parameters that some names mean, in the head's order.

    Args:
        names: of parameters or of modules, whole (``classifier.cls_bias``) or some steps of them (``cls_bias``); or a
            key of :data:`SHORTHANDS`.

    Raises:
        UserError: when the head has none of that name, with the closest one.
    """
    parameters = [name for name, _ in head.named_parameters()]
    found: set[str] = set()
    for given in names:
        for name in SHORTHANDS.get(given, (given,)):
            meant = {each for each in parameters if f".{name}." in f".{each}."}
            if not meant:
                raise _unknown(name, given, parameters)
            found |= meant
    return tuple(name for name in parameters if name in found)


def freeze(head: Head, names: Sequence[str]) -> None:
    """Let the :func:`chosen` parameters learn, and no other.

    Raises:
        UserError: as :func:`chosen`.
    """
    learning = set(chosen(head, names))
    for name, parameter in head.named_parameters():
        parameter.requires_grad_(name in learning)


def require_unchanged(head: Head, started: Mapping[str, Tensor], names: Sequence[str]) -> int:
    """Compare all that does not learn with what the training started from.

    Args:
        head: on any device.
        started: the state that it started from, on the CPU.
        names: of what learns, as :func:`chosen` takes them.

    Returns:
        How many tensors were compared: parameters and buffers.

    Raises:
        UserError: naming the first tensor that has another bit.
    """
    learning = set(chosen(head, names))
    staying = {name: value for name, value in head.state_dict().items() if name not in learning}
    for name, value in staying.items():
        if not _same_bits(value.cpu(), started[name]):
            raise UserError(
                f"the head changes its {name} by itself while it is computed, so some of its parameters cannot be "
                "trained alone; leave --train-only out."
            )
    return len(staying)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))


def _unknown(name: str, given: str, parameters: Sequence[str]) -> UserError:
    steps = {step for parameter in parameters for step in parameter.split(".") if not step.isdecimal()}
    known = sorted(steps - {"weight", "bias"})
    if given in SHORTHANDS:
        return UserError(
            f"this head has no parameter {name}, which --train-only {given} stands for; that is for heads that compare "
            "classes with embeddings, such as split_tower."
        )
    near = suggest(name, [*known, *SHORTHANDS])
    return UserError(f"this head has no parameter {name!r} to train alone; it has {', '.join(known)}.{near}")
