"""Features of some images as a cache stores them, on the way to the device that computes with them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, device, where

from detheads.cache.storage import decode


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Features of ``B`` images in their stored type: half as many bytes as float32 or a quarter of them to move.

    Attributes:
        values: layer name -> ``[B, C, H / stride, W / stride]``.
        scales: layer name -> ``[B, C]`` float32, of int8 values only.
        mirrored: which maps are still to be mirrored from left to right, ``[B]`` bool; None for none of them.
    """

    values: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]
    mirrored: Tensor | None = None

    def to(self, place: device) -> "StoredRows":
        """The same on a device; without waiting for the copy where they are pinned."""

        def moved(rows: Tensor) -> Tensor:
            return rows.to(place, non_blocking=True)

        mirrored = None if self.mirrored is None else moved(self.mirrored)
        return StoredRows(_each(self.values, moved), _each(self.scales, moved), mirrored)

    def features(self) -> dict[str, Tensor]:
        """float32 features by layer name, computed where the rows are."""
        return {name: decode(self._turned(values), self.scales.get(name)) for name, values in self.values.items()}

    def tensors(self) -> list[Tensor]:
        mirrored = [] if self.mirrored is None else [self.mirrored]
        return [*self.values.values(), *self.scales.values(), *mirrored]

    def _turned(self, values: Tensor) -> Tensor:
        if self.mirrored is None:
            return values
        return where(self.mirrored[:, None, None, None], values.flip(3), values)  # asks the device nothing


def _each(tensors: Mapping[str, Tensor], function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {name: function(values) for name, values in tensors.items()}
