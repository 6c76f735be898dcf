"""Pictures that ranges are measured on: chosen, named by their digests, and none of them from the proof."""

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detheads.data import list_splits, load_picture, read_dataset
from detheads.data.dataset import Dataset, ImageRecord
from detheads.foundation import atomic
from detheads.foundation.arrays import read_arrays
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import letterbox_image, sides
from detheads.foundation.images import list_images, load_image
from detheads.foundation.manifest import CalibrationEntry

IMAGES = 64
"""Pictures that are chosen unless another number is asked for."""

BATCH = 4
"""Pictures that are run at once."""

NAMED = 3
"""Pictures that a refusal names."""

ARRAYS = frozenset({".npy", ".npz"})


@dataclass(frozen=True)
class Picture:
    """One calibration picture.

    Attributes:
        name: its file name as its dataset or folder has it; the file and the place in it for an array.
        sha256: of the file; of the pixels for an array.
        source: the file, its entry in a dataset, or letterboxed pixels ``[3, H, W]``.
    """

    name: str
    sha256: str
    source: Path | ImageRecord | NDArray[np.uint8]


@dataclass(frozen=True)
class Calibration:
    """Chosen pictures of one model input size.

    Attributes:
        source: the name of what they were chosen from.
        split: of a dataset; None for a folder or an array.
        height, width: of the model input, pixels.
    """

    source: str
    split: str | None
    pictures: tuple[Picture, ...]
    height: int
    width: int
    seed: int = 0

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """All pictures letterboxed: RGB ``[n, 3, H, W]``.

        Raises:
            UserError: when one cannot be read.
        """
        return np.stack([_pixels(picture, self.height, self.width) for picture in self.pictures])

    def batches(self, size: int = BATCH) -> Iterator[NDArray[np.uint8]]:
        """The pictures in batches ``[B, 3, H, W]`` of at most ``size``."""
        for start in range(0, len(self.pictures), size):
            yield self.images[start : start + size]

    def entry(self) -> CalibrationEntry:
        """What a bundle's manifest says of it."""
        return CalibrationEntry(
            source=self.source,
            split=self.split,
            seed=self.seed,
            images={picture.name: picture.sha256 for picture in self.pictures},
        )


def choose_calibration(
    given: str | None,
    size: tuple[int, int],
    *,
    count: int = IMAGES,
    seed: int = 0,
    data: Path | None = None,
    proof: Dataset | None = None,
) -> Calibration:
    """Choose pictures: one at random from each of ``count`` equal stretches of the source, in the order of its names.

    Args:
        given: ``PLACE`` or ``PLACE:SPLIT``: a dataset (its training split, unless another is named), a folder of
            pictures, or an array ``[n, 3, H, W]`` of uint8 RGB in an ``.npy`` or ``.npz`` file. None: the training
            split of ``data``.
        size: height and width of the model input, pixels.
        data: the dataset that the proof is made on.
        proof: the pictures of the proof, of which none may be used.

    Raises:
        UserError: when there are no pictures, they have another size (an array), cannot be read, or are in the proof.
    """
    place, split = _default(data) if given is None else _place(given)
    height, width = size
    if place.suffix.lower() in ARRAYS and place.is_file():
        return _from_array(place, size, count, seed, proof)
    records, split = _records(place, split)
    if not records:
        raise UserError(f"{place} has no pictures to calibrate on; give a folder that has some with --calibration.")
    chosen = [_file(*records[index]) for index in spread(len(records), count, seed)]
    if proof is not None:
        known = {atomic.sha256_of(image.path): image.file_name for image in proof.images}
        _refuse_shared(chosen, known, proof)
    return Calibration(place.resolve().name, split, tuple(chosen), height, width, seed)


def spread(count: int, wanted: int, seed: int) -> list[int]:
    """At most ``wanted`` of ``range(count)``: one at random from each of ``wanted`` equal stretches."""
    wanted = min(count, wanted)
    edges = [index * count // wanted for index in range(wanted + 1)]
    draw = random.Random(seed)
    return [draw.randrange(low, high) for low, high in itertools.pairwise(edges)]


def _default(data: Path | None) -> tuple[Path, str]:
    if data is None:
        raise UserError("ranges are measured on pictures, and none were given; give --calibration FOLDER.")
    splits = list_splits(data)
    training = next((name for name in splits if name.startswith("train")), None)
    if training is None:
        raise UserError(
            f"{data} has no training split to calibrate on (it has {', '.join(splits)}); give other pictures than "
            "those of the proof with --calibration FOLDER."
        )
    return data, training


def _place(given: str) -> tuple[Path, str | None]:
    """A place and the split that was named with it."""
    place = Path(given)
    front, colon, split = given.rpartition(":")
    if not place.exists() and colon and front and split and Path(front).exists():
        return Path(front), split
    if not place.exists():
        raise UserError(f"{given} does not exist; give --calibration a folder of pictures or DATASET:SPLIT.")
    return place, None


def _records(place: Path, split: str | None) -> tuple[list[tuple[str, Path | ImageRecord]], str | None]:
    """Names and files of a dataset's split or of a folder, in the order of their names, and the split's name."""
    if split is None:
        try:
            list_splits(place)
        except UserError:  # no dataset, or one of several: its pictures are all that is asked for
            if not place.is_dir():
                raise
            return [(name, place / name) for name in list_images(place)], None
    dataset = read_dataset(place, split)
    return sorted(((image.file_name, image) for image in dataset.images), key=lambda item: item[0]), dataset.split


def _file(name: str, source: Path | ImageRecord) -> Picture:
    return Picture(name, atomic.sha256_of(source if isinstance(source, Path) else source.path), source)


def _from_array(path: Path, size: tuple[int, int], count: int, seed: int, proof: Dataset | None) -> Calibration:
    found = read_arrays(path)
    arrays = list(found.values()) if isinstance(found, dict) else [found]
    height, width = size
    if len(arrays) != 1 or arrays[0].dtype != np.uint8 or arrays[0].ndim != 4 or arrays[0].shape[1] != 3:
        described = ", ".join(f"{array.dtype} {list(array.shape)}" for array in arrays) or "nothing"
        raise UserError(f"{path} holds {described}; calibration takes one uint8 array [n, 3, {height}, {width}].")
    array = arrays[0]
    if array.shape[2:] != size:
        raise UserError(
            f"{path} holds pictures of {sides(*array.shape[2:])} pixels and the model takes {sides(height, width)}; "
            "give pictures of any size in a folder, or an array of the model's size."
        )
    if not len(array):
        raise UserError(f"{path} has no pictures to calibrate on; give a file that has some with --calibration.")
    chosen = [
        Picture(f"{path.name}[{index}]", _digest(array[index]), array[index])
        for index in spread(len(array), count, seed)
    ]
    if proof is not None:
        seen = {_digest(_pixels(Picture(image.file_name, "", image), *size)): image.file_name for image in proof.images}
        _refuse_shared(chosen, seen, proof)
    return Calibration(path.name, None, tuple(chosen), height, width, seed)


def _pixels(picture: Picture, height: int, width: int) -> NDArray[np.uint8]:
    """Letterboxed RGB ``[3, H, W]``."""
    source = picture.source
    if isinstance(source, np.ndarray):
        return source
    image = load_image(source) if isinstance(source, Path) else load_picture(source)
    return np.ascontiguousarray(letterbox_image(image, width, height)[0].transpose(2, 0, 1))


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _refuse_shared(chosen: Sequence[Picture], known: dict[str, str], proof: Dataset) -> None:
    shared = [f"{picture.name} ({known[picture.sha256]})" if known[picture.sha256] != picture.name else picture.name
              for picture in chosen if picture.sha256 in known]  # fmt: skip
    if shared:
        further = f" and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
        raise UserError(
            f"pictures to calibrate on are also in the proof's split {proof.name} {proof.split}: "
            f"{', '.join(shared[:NAMED])}{further}; a proof on them would flatter. Give others with --calibration."
        )
