"""Weighted sums of rows, of their products with each other and with targets, gathered in one pass.

The state has a fixed size, adds up over shards and machines, and is all that the solves in
:mod:`detheads.analytical.estimators` need: means and scatter of each class of rows for a discriminant, Gram matrix and
cross products for ridge regression.

Precision: rows are centred by an approximate mean (the pilot), multiplied in float32 a block at a time, and the blocks
are summed in float64. Without the pilot the products of features whose mean is many standard deviations from zero lose
the digits that the covariance is made of. Rows in float64 are multiplied in float64 (the reference path).

The blocks are handled by numpy, on the processor, wherever the rows lie. It computes one triangle only of a matrix
times its own transpose (BLAS ``syrk``), which takes little more than half as long as torch's product, and its
element-wise steps do not wait for other threads, which costs more than it gains where other jobs use the machine.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_ROWS = 2048
"""Rows of one float32 product: few enough to stay in the processor's cache and to keep the sum accurate, many enough
that adding the product to the float64 sum takes a few per cent of its time."""

LARGEST_VALUE = 1e17
"""Values beyond this would overflow a float32 sum of squares over a block."""

SINGLE_RESOLUTION = 1e-7
DOUBLE_RESOLUTION = 1e-12


Rows: TypeAlias = Tensor | NDArray[Any]
"""Rows of a caller: a tensor or a numpy array, or what numpy makes one of."""


class Moments:
    """Sums over weighted rows of one or more classes, and over the targets of the rows.

    The products of all rows are one product a block; the rows outside the class that weighs most in a call of
    :meth:`add` are multiplied a second time and moved from that class to their own in float64. So the pass costs little
    more than the bare product of the rows with themselves as long as most rows are of one class (background).

    Attributes:
        pilot: ``[d]`` float32, what rows are centred by.
        pooled: one scatter for all classes (memory ``[d, d]`` however many there are) instead of one each.
        weight: ``[classes]``, sums of weights.
        first: ``[classes, d]``, sums of centred rows.
        second: ``[classes, d, d]``, or ``[1, d, d]`` if pooled, sums of products of centred rows.
        target_first, target_second: ``[m]``, sums of targets and of their squares, over all classes.
        product: ``[d, m]``, sums of products of centred rows and targets, over all classes.
        double: whether all rows were float64.

    Args:
        pilot: ``[d]``, an approximate mean of all rows.
        classes: number of classes; labels are ``0 .. classes - 1``.
        targets: number of targets ``m`` of a row.
    """

    def __init__(self, pilot: Rows, *, classes: int = 1, targets: int = 0, pooled: bool = False) -> None:
        if classes < 1:
            raise ValueError(f"moments need at least one class, not {classes}.")
        pilot = _tensor(pilot)
        if pilot.dim() != 1 or not len(pilot):
            raise ValueError(f"the pilot mean is one row [d], not {_described(pilot)}.")
        self.pilot, self.pooled, self.double = pilot.detach().to("cpu", torch.float32), pooled, True
        if not self.pilot.isfinite().all():
            raise ValueError("the pilot mean holds values that are not finite.")
        size, matrices = len(pilot), 1 if pooled else classes
        self.weight = torch.zeros(classes, dtype=torch.float64)
        self.first = torch.zeros(classes, size, dtype=torch.float64)
        self.second = torch.zeros(matrices, size, size, dtype=torch.float64)
        self.target_first = torch.zeros(targets, dtype=torch.float64)
        self.target_second = torch.zeros(targets, dtype=torch.float64)
        self.product = torch.zeros(size, targets, dtype=torch.float64)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.weight)

    @property
    def dimensions(self) -> int:
        """Length of a row."""
        return len(self.pilot)

    @property
    def targets(self) -> int:
        """Number of targets of a row."""
        return len(self.target_first)

    @property
    def total(self) -> float:
        """Weight of all rows."""
        return float(self.weight.sum())

    @property
    def resolution(self) -> float:
        """Relative size below which an eigenvalue of a scatter is rounding."""
        return DOUBLE_RESOLUTION if self.double else SINGLE_RESOLUTION

    def add(
        self,
        rows: Rows,
        *,
        labels: Rows | None = None,
        targets: Rows | None = None,
        weights: Rows | None = None,
    ) -> None:
        """Take rows in. Tensors and numpy arrays are the same to it.

        Args:
            rows: ``[R, d]``; float64 rows are multiplied in float64, all others in float32.
            labels: ``[R]`` int64 in ``[0, classes)``; ``None`` where there is one class.
            targets: ``[R, m]``; ``None`` where there are none.
            weights: ``[R]``, not negative; an integer weight ``n`` counts a row ``n`` times. ``None``: 1 each.

        Raises:
            ValueError: shapes that do not fit, labels out of range, values that are not finite, negative weights.
                Nothing has been added then.
        """
        rows = _tensor(rows)
        weights = _checked_rows(rows, self.dimensions, None if weights is None else _tensor(weights))
        labels = self._checked_labels(None if labels is None else _tensor(labels), rows)
        targets = self._checked_targets(None if targets is None else _tensor(targets), rows)
        if not len(rows):
            return
        masses = torch.bincount(labels, weights, self.classes).to("cpu", torch.float64)
        majority = int(masses.argmax())
        self.double &= rows.dtype == torch.float64
        self.weight += masses
        first, second = self.first[majority].numpy(), self.second[0 if self.pooled else majority].numpy()
        for place, block, roots in _centred_blocks(rows, self.pilot, weights):
            first += roots @ block
            second += block.T @ block
            if self.targets:
                exact = roots.astype(np.float64)
                wanted = targets[place].detach().to("cpu", torch.float64).numpy() * exact[:, None]
                self.product += torch.from_numpy(block.T @ wanted.astype(block.dtype))
                self.target_first += torch.from_numpy(exact @ wanted)
                self.target_second += torch.from_numpy(np.square(wanted).sum(0))
        self._move_minorities(rows, labels, weights, majority)

    def _move_minorities(self, rows: Tensor, labels: Tensor, weights: Tensor | None, majority: int) -> None:
        """Move what rows of other classes gave to the ``majority`` class to their own."""
        first, second = self.first.numpy(), self.second.numpy()
        minority = (labels != majority).nonzero()[:, 0]
        owners, order = labels[minority].sort()
        minority = minority[order]
        groups, sizes = owners.unique_consecutive(return_counts=True)
        for owner, chosen in zip(groups.tolist(), minority.split(sizes.tolist()), strict=True):
            picked = None if weights is None else weights[chosen]
            for _, block, roots in _centred_blocks(rows[chosen], self.pilot, picked):
                total = roots @ block
                first[owner] += total
                first[majority] -= total
                if not self.pooled:
                    product = block.T @ block
                    second[owner] += product
                    second[majority] -= product

    def merge(self, other: "Moments") -> None:
        """Add the moments of another pass over other rows. Its pilot may differ.

        Raises:
            ValueError: when dimensions, classes, targets or the kind of scatter differ.
        """
        if self._shape() != other._shape():
            raise ValueError(f"moments of {self._shape()} cannot take in moments of {other._shape()}.")
        shift = other.pilot.double() - self.pilot.double()
        outer = other.first.unsqueeze(2) * shift
        second_shift = outer + outer.mT + other.weight[:, None, None] * shift.outer(shift)
        self.second += other.second + (second_shift.sum(0) if self.pooled else second_shift)
        self.product += other.product + shift.outer(other.target_first)
        self.first += other.first + other.weight[:, None] * shift
        self.target_first += other.target_first
        self.target_second += other.target_second
        self.weight += other.weight
        self.double &= other.double

    def _shape(self) -> str:
        scatter = "one scatter" if self.pooled else "a scatter each"
        return f"{self.dimensions} dimensions, {self.targets} targets and {self.classes} classes with {scatter}"

    def only(self, label: int) -> "Moments":
        """The moments of one class, without targets. Not of pooled moments, whose scatter belongs to no class."""
        own = Moments(self.pilot)
        own.double = self.double
        for name in ("weight", "first", "second"):
            getattr(own, name).copy_(getattr(self, name)[label : label + 1])
        return own

    def mean(self) -> Tensor:
        """Class means, ``[classes, d]`` float64.

        Raises:
            ValueError: when a class has no rows.
        """
        empty = (self.weight <= 0).nonzero()[:, 0].tolist()
        if empty:
            raise ValueError(
                f"class {', '.join(map(str, empty))} of {self.classes} has no rows of positive weight, "
                "so it has no mean and no covariance; leave it out or add data that holds it."
            )
        return self.pilot.double() + self.first / self.weight[:, None]

    def scatter(self) -> Tensor:
        """Sums of products of rows minus their class's mean, float64: ``[classes, d, d]``, or ``[1, d, d]`` if pooled.

        Of one class it is the centred Gram matrix of ridge regression. It is zero for a class without rows.
        """
        scaled = self.first / self.weight.clamp(min=torch.finfo(torch.float64).tiny).sqrt()[:, None]
        of_means = scaled.T @ scaled if self.pooled else scaled.unsqueeze(2) * scaled.unsqueeze(1)
        centred = self.second - of_means
        # A channel whose variance is rounding of the raw products is constant.
        constant = centred.diagonal(dim1=-2, dim2=-1) <= self.resolution * self.second.diagonal(dim1=-2, dim2=-1)
        symmetric = (centred + centred.mT) / 2
        return symmetric.masked_fill_(constant.unsqueeze(-1) | constant.unsqueeze(-2), 0)

    def covariance(self) -> Tensor:
        """Biased (1/n) covariance within the classes, float64: ``[classes, d, d]``, or ``[1, d, d]`` if pooled.

        Raises:
            ValueError: when a class has no rows (pooled: when there are no rows at all).
        """
        if not self.pooled:
            self.mean()  # every class has rows
            return self.scatter() / self.weight[:, None, None]
        if not self.total > 0:
            raise ValueError("no class has any rows, so there is no covariance.")
        return self.scatter() / self.total

    def target_mean(self) -> Tensor:
        """Weighted mean of the targets, ``[m]`` float64."""
        return self.target_first / self.total

    def cross(self) -> Tensor:
        """Sums of products of rows and targets, both minus their mean over all classes: ``[d, m]`` float64."""
        return self.product - self.first.sum(0).outer(self.target_mean())

    def target_scatter(self) -> Tensor:
        """Centred sum of squares of each target, ``[m]`` float64; 0 for a target that does not vary."""
        scatter = self.target_second - self.target_first.square() / self.total
        return torch.where(scatter > DOUBLE_RESOLUTION * self.target_second, scatter, 0)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, for safetensors; ``from_tensors`` takes it back."""
        sums = {name: getattr(self, name) for name in _SUMS}
        return {"pilot": self.pilot, **sums, "pooled": torch.tensor(self.pooled), "double": torch.tensor(self.double)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Moments":
        """Rebuild moments from :meth:`tensors`.

        Raises:
            ValueError: when the tensors are not those of moments.
        """
        tensors, names = _of_this_version(tensors), ("pilot", *_SUMS, "pooled", "double")
        if tensors.keys() != set(names):
            raise ValueError(
                f"moments consist of {', '.join(names)}, not of {', '.join(sorted(tensors)) or 'nothing'}."
            )
        classes, targets = tensors["weight"].numel(), tensors["target_first"].numel()
        moments = cls(tensors["pilot"], classes=classes, targets=targets, pooled=bool(tensors["pooled"]))
        moments.double = bool(tensors["double"])
        for name in _SUMS:
            fresh, saved = getattr(moments, name), tensors[name]
            if saved.shape != fresh.shape or saved.dtype != fresh.dtype:
                raise ValueError(f"saved moments: {name} should be {_described(fresh)}, not {_described(saved)}.")
            fresh.copy_(saved)
        return moments

    def _checked_labels(self, labels: Tensor | None, rows: Tensor) -> Tensor:
        if labels is None and self.classes == 1:
            return torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        if labels is None or labels.shape != rows.shape[:1] or labels.is_floating_point():
            raise ValueError(f"{len(rows)} rows need as many integer labels, not {_described(labels)}.")
        if len(labels):
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.classes:
                raise ValueError(f"labels lie in [0, {self.classes}), but the rows have labels from {low} to {high}.")
        return labels

    def _checked_targets(self, targets: Tensor | None, rows: Tensor) -> Tensor:
        if targets is None and not self.targets:
            return rows[:, :0]
        shape = (len(rows), self.targets)
        if targets is None or targets.shape != shape:
            raise ValueError(f"{len(rows)} rows need targets {list(shape)}, not {_described(targets)}.")
        if not targets.double().sum().isfinite():
            raise ValueError("the targets hold values that are not finite.")
        return targets


def pack(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """The tensors of several moments, each under ``NAME.TENSOR``."""
    return {f"{name}.{key}": tensor for name, each in moments.items() for key, tensor in each.tensors().items()}


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Moments]:
    """The inverse of :func:`pack`; tensors without a dot in their name are left out.

    Raises:
        ValueError: when the tensors are not those of moments.
    """
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for place, tensor in tensors.items():
        name, _, key = place.rpartition(".")
        parts[name][key] = tensor
    return {name: Moments.from_tensors(part) for name, part in parts.items() if name}


_SUMS = ("weight", "first", "second", "target_first", "target_second", "product")


def _centred_blocks(
    rows: Tensor, pilot: Tensor, weights: Tensor | None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Blocks of rows minus the pilot, each row times the root of its weight, and these roots.

    All blocks share one buffer: a block is valid until the next one is asked for.
    """
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    rows, centre = rows.detach(), pilot.to(dtype).numpy()
    roots = (torch.ones(len(rows)) if weights is None else weights.sqrt()).to("cpu", dtype).numpy()
    buffer = np.empty((min(len(rows), BLOCK_ROWS), len(centre)), centre.dtype)
    for start in range(0, len(rows), BLOCK_ROWS):
        place = slice(start, min(start + BLOCK_ROWS, len(rows)))
        block = buffer[: place.stop - start]
        np.subtract(rows[place].to("cpu", dtype).numpy(), centre, out=block)
        if weights is not None:
            block *= roots[place, None]
        yield place, block, roots[place]


def _checked_rows(rows: Tensor, dimensions: int, weights: Tensor | None) -> Tensor | None:
    """The weights as float64, once rows and weights have been found sound."""
    if rows.dim() != 2 or rows.shape[1] != dimensions or not rows.is_floating_point():
        raise ValueError(f"rows are [R, {dimensions}] of a floating-point type, not {_described(rows)}.")
    if len(rows):
        low, high = rows.aminmax()  # NaN comes through; isfinite() would write a mask of all values
        if not (low > -LARGEST_VALUE and high < LARGEST_VALUE):
            raise ValueError(
                f"the rows hold values that are not finite (or beyond {LARGEST_VALUE:g}); "
                "the features are damaged or their type overflowed."
            )
    if weights is None:
        return None
    if weights.shape != rows.shape[:1]:
        raise ValueError(f"{len(rows)} rows need as many weights, not {_described(weights)}.")
    weights = weights.to(torch.float64)
    if not weights.isfinite().all() or (weights < 0).any():
        raise ValueError("weights must be finite and not negative.")
    return weights


def _tensor(values: Rows) -> Tensor:
    """The values as a tensor, which shares memory with a numpy array that may be written to."""
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    return torch.from_numpy(array if array.flags.writeable and not any(s < 0 for s in array.strides) else array.copy())


def _of_this_version(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state as :meth:`Moments.tensors` names it; moments used to be saved without the sums they had no use for."""
    if tensors.keys() == {"pilot", "weight", "first", "second", "pooled", "double"}:
        nothing = torch.zeros(0, dtype=torch.float64)
        product = torch.zeros(len(tensors["pilot"]), 0, dtype=torch.float64)
        return {**tensors, "target_first": nothing, "target_second": nothing, "product": product}
    if "target_first" in tensors and "pooled" not in tensors:
        sums = {name: tensors[name].unsqueeze(0) for name in ("weight", "first", "second") if name in tensors}
        return {**tensors, **sums, "pooled": torch.tensor(False)}
    return dict(tensors)


def _described(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
