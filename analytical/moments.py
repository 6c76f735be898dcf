"""Weighted sums of rows, of their squares and of their products with targets, gathered in one pass.

The state has a fixed size, adds up over shards and machines, and is all that the solves in
:mod:`detheads.analytical.estimators` need.

Precision: rows are centred by an approximate mean (the pilot), multiplied in float32 a block at a time, and the blocks
are summed in float64. Without the pilot the products of features whose mean is many standard deviations from zero lose
the digits that the covariance is made of. Rows in float64 are multiplied in float64 (the reference path).

The blocks are handled by numpy, on the processor, wherever the rows lie. It computes one triangle only of a matrix
times its own transpose (BLAS ``syrk``), which takes little more than half as long as torch's product, and its
element-wise steps do not wait for other threads, which costs more than it gains where other jobs use the machine.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Scatter = Literal["per_class", "pooled"]

BLOCK_ROWS = 2048
"""Rows of one float32 product: few enough to stay in the processor's cache and to keep the sum accurate, many enough
that adding the product to the float64 sum takes a few per cent of its time."""

LARGEST_VALUE = 1e17
"""Values beyond this would overflow a float32 sum of squares over a block."""

SINGLE_RESOLUTION = 1e-7
DOUBLE_RESOLUTION = 1e-12


class ClassMoments:
    """Weights, means and scatter of rows by class.

    The second moments of all rows are one product; the rows outside the class that weighs most in a call of
    :meth:`add` are multiplied a second time and moved from that class to their own in float64. So the pass costs little
    more than the bare product of the rows with themselves as long as most rows are of one class (background).

    Attributes:
        weight: ``[classes]`` float64, sums of weights.
        resolution: relative size below which an eigenvalue of a covariance is rounding.

    Args:
        classes: number of classes; labels are ``0 .. classes - 1``.
        pilot: ``[d]``, an approximate mean of all rows, kept as float32.
        scatter: one covariance a class, or one pooled over the classes (memory ``[d, d]`` however many classes).
    """

    def __init__(self, classes: int, pilot: Tensor, scatter: Scatter = "per_class") -> None:
        if classes < 1:
            raise ValueError(f"moments need at least one class, not {classes}.")
        if scatter not in ("per_class", "pooled"):
            raise ValueError(f"scatter is 'per_class' or 'pooled', not {scatter!r}.")
        self.pilot = _checked_pilot(pilot)
        self.scatter: Scatter = scatter
        self.double = True
        dimensions = len(self.pilot)
        matrices = classes if scatter == "per_class" else 1
        self.weight = torch.zeros(classes, dtype=torch.float64)
        self._first = torch.zeros(classes, dimensions, dtype=torch.float64)
        self._second = torch.zeros(matrices, dimensions, dimensions, dtype=torch.float64)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.weight)

    @property
    def dimensions(self) -> int:
        """Length of a row."""
        return len(self.pilot)

    @property
    def resolution(self) -> float:
        """Relative size below which an eigenvalue of a covariance is rounding."""
        return DOUBLE_RESOLUTION if self.double else SINGLE_RESOLUTION

    def add(self, rows: Tensor, labels: Tensor, weights: Tensor | None = None) -> None:
        """Take rows in.

        Args:
            rows: ``[R, d]``; float64 rows are multiplied in float64, all others in float32.
            labels: ``[R]`` int64 in ``[0, classes)``.
            weights: ``[R]``, not negative; an integer weight ``n`` counts a row ``n`` times. ``None``: 1 each.

        Raises:
            ValueError: shapes that do not fit, labels out of range, values that are not finite, negative weights.
                Nothing has been added then.
        """
        weights = _checked_rows(rows, self.dimensions, weights)
        if labels.shape != rows.shape[:1] or labels.is_floating_point():
            raise ValueError(f"{len(rows)} rows need as many integer labels, not {_described(labels)}.")
        if not len(rows):
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.classes:
            raise ValueError(f"labels lie in [0, {self.classes}), but the rows have labels from {low} to {high}.")
        masses = torch.bincount(labels, weights, self.classes).to("cpu", torch.float64)
        majority = int(masses.argmax())
        self.double &= rows.dtype == torch.float64
        self.weight += masses
        sums, products = self._first.numpy(), self._second.numpy()
        slot = majority if self.scatter == "per_class" else 0
        for _, block, roots in _centred_blocks(rows, self.pilot, weights):
            sums[majority] += roots @ block
            products[slot] += block.T @ block
        self._move_minorities(rows, labels, weights, majority)

    def _move_minorities(self, rows: Tensor, labels: Tensor, weights: Tensor | None, majority: int) -> None:
        """Move what rows of other classes gave to the ``majority`` class to their own."""
        sums, products = self._first.numpy(), self._second.numpy()
        minority = (labels != majority).nonzero()[:, 0]
        owners, order = labels[minority].sort()
        minority = minority[order]
        groups, sizes = owners.unique_consecutive(return_counts=True)
        for owner, chosen in zip(groups.tolist(), minority.split(sizes.tolist()), strict=True):
            picked = None if weights is None else weights[chosen]
            for _, block, roots in _centred_blocks(rows[chosen], self.pilot, picked):
                total = roots @ block
                sums[owner] += total
                sums[majority] -= total
                if self.scatter == "per_class":
                    product = block.T @ block
                    products[owner] += product
                    products[majority] -= product

    def merge(self, other: "ClassMoments") -> None:
        """Add the moments of another pass over other rows. Its pilot may differ.

        Raises:
            ValueError: when classes, dimensions or scatter mode differ.
        """
        mine, its = ((m.classes, m.dimensions, m.scatter) for m in (self, other))
        if mine != its:
            raise ValueError(
                f"moments of {mine[0]} classes, {mine[1]} dimensions, scatter {mine[2]!r} cannot take in "
                f"moments of {its[0]} classes, {its[1]} dimensions, scatter {its[2]!r}."
            )
        shift = other.pilot.double() - self.pilot.double()
        outer = other._first.unsqueeze(2) * shift
        second_shift = outer + outer.mT + other.weight[:, None, None] * shift.outer(shift)
        if self.scatter == "pooled":
            second_shift = second_shift.sum(0, keepdim=True)
        self._second += other._second + second_shift
        self._first += other._first + other.weight[:, None] * shift
        self.weight += other.weight
        self.double &= other.double

    def mean(self) -> Tensor:
        """Class means, ``[classes, d]`` float64.

        Raises:
            ValueError: when a class has no rows.
        """
        self._require_rows()
        return self.pilot.double() + self._first / self.weight[:, None]

    def covariance(self) -> Tensor:
        """Biased (1/n) covariance within the classes, float64: ``[classes, d, d]``, or ``[1, d, d]`` if pooled.

        Raises:
            ValueError: when a class has no rows (pooled: when there are no rows at all).
        """
        if self.scatter == "per_class":
            self._require_rows()
            offset = self._first / self.weight[:, None]
            raw = self._second / self.weight[:, None, None]
            covariance = raw - offset.unsqueeze(2) * offset.unsqueeze(1)
        else:
            total = self.weight.sum()
            if not total > 0:
                raise ValueError("no class has any rows, so there is no covariance.")
            scaled = self._first / self.weight.clamp(min=torch.finfo(torch.float64).tiny).sqrt()[:, None]
            raw = self._second / total
            covariance = raw - scaled.T @ scaled / total
        return _cleaned(covariance, raw, self.resolution)

    def _require_rows(self) -> None:
        empty = (self.weight <= 0).nonzero()[:, 0].tolist()
        if empty:
            raise ValueError(
                f"class {', '.join(map(str, empty))} of {self.classes} has no rows of positive weight, "
                "so it has no mean and no covariance; leave it out or add data that holds it."
            )

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, for safetensors; ``from_tensors`` takes it back."""
        return {
            "pilot": self.pilot,
            "weight": self.weight,
            "first": self._first,
            "second": self._second,
            "pooled": torch.tensor(self.scatter == "pooled"),
            "double": torch.tensor(self.double),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "ClassMoments":
        """Rebuild moments from :meth:`tensors`.

        Raises:
            ValueError: when the tensors are not those of class moments.
        """
        _require_names(tensors, ("pilot", "weight", "first", "second", "pooled", "double"), "class moments")
        moments = cls(tensors["weight"].numel(), tensors["pilot"], "pooled" if tensors["pooled"] else "per_class")
        moments.double = bool(tensors["double"])
        moments.weight = _restored(tensors, "weight", moments.weight)
        moments._first = _restored(tensors, "first", moments._first)
        moments._second = _restored(tensors, "second", moments._second)
        return moments


class RidgeMoments:
    """Gram matrix and cross products of the ridge problems that share their inputs.

    Attributes:
        weight: sum of weights.

    Args:
        pilot: ``[d]``, an approximate mean of the input rows, kept as float32.
        outputs: number of targets ``m`` of a row.
    """

    def __init__(self, pilot: Tensor, outputs: int) -> None:
        if outputs < 1:
            raise ValueError(f"a ridge problem needs at least one output, not {outputs}.")
        self.pilot = _checked_pilot(pilot)
        self.double = True
        self.weight = 0.0
        dimensions = len(self.pilot)
        self._first = torch.zeros(dimensions, dtype=torch.float64)
        self._second = torch.zeros(dimensions, dimensions, dtype=torch.float64)
        self._target_first = torch.zeros(outputs, dtype=torch.float64)
        self._target_second = torch.zeros(outputs, dtype=torch.float64)
        self._product = torch.zeros(dimensions, outputs, dtype=torch.float64)

    @property
    def dimensions(self) -> int:
        """Length of an input row."""
        return len(self.pilot)

    @property
    def outputs(self) -> int:
        """Number of targets of a row."""
        return len(self._target_first)

    @property
    def resolution(self) -> float:
        """Relative size below which an eigenvalue of the Gram matrix is rounding."""
        return DOUBLE_RESOLUTION if self.double else SINGLE_RESOLUTION

    def add(self, rows: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        """Take rows and their targets in.

        Args:
            rows: ``[R, d]``; float64 rows are multiplied in float64, all others in float32.
            targets: ``[R, m]``.
            weights: ``[R]``, not negative; an integer weight ``n`` counts a row ``n`` times. ``None``: 1 each.

        Raises:
            ValueError: shapes that do not fit, values that are not finite, negative weights.
                Nothing has been added then.
        """
        weights = _checked_rows(rows, self.dimensions, weights)
        if targets.shape != (len(rows), self.outputs):
            raise ValueError(f"{len(rows)} rows need targets [{len(rows)}, {self.outputs}], not {_described(targets)}.")
        if not targets.double().sum().isfinite():
            raise ValueError("the targets hold values that are not finite.")
        if not len(rows):
            return
        self.double &= rows.dtype == torch.float64
        self.weight += float(len(rows) if weights is None else weights.sum())
        for place, block, roots in _centred_blocks(rows, self.pilot, weights):
            exact = roots.astype(np.float64)
            wanted = targets[place].detach().to("cpu", torch.float64).numpy() * exact[:, None]
            self._first.numpy()[...] += roots @ block
            self._second.numpy()[...] += block.T @ block
            self._product.numpy()[...] += block.T @ wanted.astype(block.dtype)
            self._target_first.numpy()[...] += exact @ wanted
            self._target_second.numpy()[...] += np.square(wanted).sum(0)

    def merge(self, other: "RidgeMoments") -> None:
        """Add the moments of another pass over other rows. Its pilot may differ.

        Raises:
            ValueError: when dimensions or outputs differ.
        """
        mine, its = ((m.dimensions, m.outputs) for m in (self, other))
        if mine != its:
            raise ValueError(
                f"ridge moments of {mine[0]} dimensions and {mine[1]} outputs cannot take in "
                f"moments of {its[0]} dimensions and {its[1]} outputs."
            )
        shift = other.pilot.double() - self.pilot.double()
        outer = other._first.outer(shift)
        self._second += other._second + outer + outer.T + other.weight * shift.outer(shift)
        self._product += other._product + shift.outer(other._target_first)
        self._first += other._first + other.weight * shift
        self._target_first += other._target_first
        self._target_second += other._target_second
        self.weight += other.weight
        self.double &= other.double

    @property
    def input_mean(self) -> Tensor:
        """Weighted mean of the input rows, ``[d]`` float64."""
        return self.pilot.double() + self._first / self._positive_weight

    @property
    def target_mean(self) -> Tensor:
        """Weighted mean of the targets, ``[m]`` float64."""
        return self._target_first / self._positive_weight

    @property
    def gram(self) -> Tensor:
        """Centred Gram matrix of the inputs (a sum over rows, not an average), ``[d, d]`` float64."""
        gram = self._second - self._first.outer(self._first) / self._positive_weight
        return _cleaned(gram, self._second, self.resolution)

    @property
    def cross(self) -> Tensor:
        """Centred products of inputs and targets (a sum over rows), ``[d, m]`` float64."""
        return self._product - self._first.outer(self._target_first) / self._positive_weight

    @property
    def target_scatter(self) -> Tensor:
        """Centred sum of squares of each target, ``[m]`` float64; 0 for a target that does not vary."""
        scatter = self._target_second - self._target_first.square() / self._positive_weight
        return torch.where(scatter > DOUBLE_RESOLUTION * self._target_second, scatter, 0)

    @property
    def _positive_weight(self) -> float:
        if not self.weight > 0:
            raise ValueError("a ridge problem has no rows of positive weight; add data that holds some.")
        return self.weight

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, for safetensors; ``from_tensors`` takes it back."""
        return {
            "pilot": self.pilot,
            "weight": torch.tensor(self.weight, dtype=torch.float64),
            "first": self._first,
            "second": self._second,
            "target_first": self._target_first,
            "target_second": self._target_second,
            "product": self._product,
            "double": torch.tensor(self.double),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "RidgeMoments":
        """Rebuild moments from :meth:`tensors`.

        Raises:
            ValueError: when the tensors are not those of ridge moments.
        """
        names = ("pilot", "weight", "first", "second", "target_first", "target_second", "product", "double")
        _require_names(tensors, names, "ridge moments")
        moments = cls(tensors["pilot"], tensors["target_first"].numel())
        moments.double = bool(tensors["double"])
        moments.weight = float(tensors["weight"])
        moments._first = _restored(tensors, "first", moments._first)
        moments._second = _restored(tensors, "second", moments._second)
        moments._target_first = _restored(tensors, "target_first", moments._target_first)
        moments._target_second = _restored(tensors, "target_second", moments._target_second)
        moments._product = _restored(tensors, "product", moments._product)
        return moments


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


def _checked_pilot(pilot: Tensor) -> Tensor:
    if pilot.dim() != 1 or not len(pilot):
        raise ValueError(f"the pilot mean is one row [d], not {_described(pilot)}.")
    pilot = pilot.detach().to("cpu", torch.float32)
    if not pilot.isfinite().all():
        raise ValueError("the pilot mean holds values that are not finite.")
    return pilot


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


def _cleaned(centred: Tensor, raw: Tensor, resolution: float) -> Tensor:
    """Second moments ``[..., d, d]`` made symmetric; zeros for channels whose variance is rounding of the raw ones."""
    constant = centred.diagonal(dim1=-2, dim2=-1) <= resolution * raw.diagonal(dim1=-2, dim2=-1)
    symmetric = (centred + centred.mT) / 2
    if constant.any():
        symmetric.masked_fill_(constant.unsqueeze(-1) | constant.unsqueeze(-2), 0)
    return symmetric


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _require_names(tensors: Mapping[str, Tensor], names: tuple[str, ...], what: str) -> None:
    if tensors.keys() != set(names):
        raise ValueError(f"{what} consist of {', '.join(names)}, not of {', '.join(sorted(tensors)) or 'nothing'}.")


def _restored(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A saved tensor, copied, once it has the shape and type of the fresh one."""
    saved = tensors[name]
    if saved.shape != like.shape or saved.dtype != like.dtype:
        raise ValueError(f"saved moments: {name} should be {_described(like)}, not {_described(saved)}.")
    return saved.clone()
