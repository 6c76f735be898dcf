"""Embeddings of classes as files: one direction a class, with its name and what it was made by."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from detheads.foundation import atomic
from detheads.foundation.arrays import read_arrays
from detheads.foundation.errors import UserError, suggest

COCO_NAMES = (
    """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
""".replace("\n", " ")
    .strip()
    .split(", ")
)
"""COCO's classes in the order of their ids, which files of 80 nameless embeddings follow."""

BOXES = "boxes"
"""Name of the encoder of embeddings that are mean features of objects."""

LISTED = 8
"""Names that a sentence lists."""


@dataclass(frozen=True)
class Encoder:
    """What embeddings were made by: only those of one encoder can be compared.

    Attributes:
        name: open_clip's architecture, or :data:`BOXES`.
        weights_sha256: of the weight file; of the checkpoint for features of objects.
        prompts: that were averaged, ``{}`` for the name of the class; none for features of objects.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    weights_sha256: str
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Embeddings:
    """What an embedding file holds.

    Attributes:
        path: the file, for sentences.
        names: of its rows; None in an array without names.
        rows: ``[n, D]`` float32, unit length.
        encoder: what made them; None where the file does not tell.
    """

    path: Path
    names: tuple[str, ...] | None
    rows: Tensor
    encoder: Encoder | None = None

    def of(self, class_names: Sequence[str]) -> Tensor:
        """The rows ``[K, D]`` of some classes: by name, or by order where there are no names.

        Raises:
            UserError: when a class has none, with the names on both sides.
        """
        names = self.names
        if names is None and len(self.rows) == len(COCO_NAMES) and set(class_names) <= set(COCO_NAMES):
            names = tuple(COCO_NAMES)
        if names is None:
            if len(self.rows) != len(class_names):
                raise UserError(
                    f"{self.path} holds {len(self.rows)} embeddings for {len(class_names)} classes "
                    f"({listed(class_names)}); one each is needed."
                )
            return self.rows
        lacking = [name for name in class_names if name not in names]
        if lacking:
            raise UserError(
                f"{self.path} has no embedding for {listed(lacking)}; it has those of {listed(names)}; add what is "
                f"missing or leave --text out.{suggest(lacking[0], names)}"
            )
        return self.rows[[names.index(name) for name in class_names]]


def load_class_embeddings(path: Path, class_names: Sequence[str]) -> Tensor:
    """Embeddings for a dataset's classes, ``[K, D]`` float32, unit length; see :func:`read_embeddings`.

    Raises:
        UserError: when the file is damaged, lacks a class, or has another number of rows.
    """
    return read_embeddings(path).of(class_names)


def read_embeddings(path: Path) -> Embeddings:
    """An embedding file.

    Args:
        path: ``.npz`` with ``names`` and ``embeddings``, matched by name; or ``.npy`` ``[K, D]`` in the order of the
            classes; or ``.npy`` ``[80, D]`` in COCO's order when every class is one of COCO's.

    Raises:
        UserError: when it is damaged, has a name twice, or a row that has no direction.
    """
    names, values, encoder = _read(path)
    twice = sorted({name for name in names or () if (names or ()).count(name) > 1})
    if twice:
        raise UserError(f"{path} has two embeddings or more for {listed(twice)}; keep one each.")
    rows = torch.from_numpy(values.astype(np.float32))
    lengths = rows.norm(dim=1, keepdim=True)
    if not torch.isfinite(rows).all() or (lengths == 0).any():
        raise UserError(f"{path} holds embeddings that are zero or not finite.")
    return Embeddings(path, None if names is None else tuple(names), rows / lengths, encoder)


def save_class_embeddings(
    path: Path, class_names: Sequence[str], embeddings: Tensor, encoder: Encoder | None = None
) -> None:
    """Write names, embeddings and what made them as ``.npz``, atomically."""
    names, values = np.array(list(class_names)), embeddings.numpy()
    with atomic.replacing(path) as partial:
        if encoder is None:
            np.savez(partial, names=names, embeddings=values)
        else:
            np.savez(partial, names=names, embeddings=values, encoder=np.array(json.dumps(asdict(encoder))))


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, the first few of many."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _read(path: Path) -> tuple[list[str] | None, NDArray[np.floating], Encoder | None]:
    loaded = read_arrays(path)
    names, encoder = None, None
    if isinstance(loaded, np.ndarray):
        values = loaded
    elif {"names", "embeddings"} <= loaded.keys():
        names, values = [str(name) for name in loaded["names"].reshape(-1)], loaded["embeddings"]
        encoder = _encoder(path, loaded["encoder"]) if "encoder" in loaded else None
    else:
        raise UserError(f"{path} is not an embedding file; give .npy, or .npz with names and embeddings.")
    if values.ndim != 2 or values.dtype.kind != "f" or (names is not None and len(names) != len(values)):
        raise UserError(f"{path} must hold a table of embeddings, one row a class; its shape is {values.shape}.")
    return names, values, encoder


def _encoder(path: Path, value: NDArray[np.generic]) -> Encoder:
    try:
        return TypeAdapter(Encoder).validate_json(str(value))
    except ValidationError:
        raise UserError(f"{path} does not say in its 'encoder' what made it; make it again.") from None
