import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detheads.data import read_dataset
from detheads.export.precision.calibration import choose_calibration, spread
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import letterbox_image

SIZE = (64, 96)
"""Height and width of the model input."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with the splits train (10 pictures) and val (4)."""
    folder = tmp_path_factory.mktemp("pictures of it")
    (folder / "annotations").mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        (folder / split).mkdir()
        images = []
        for number in range(count):
            name = f"{split} {number:02}.png"
            pixels = random.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / name)
            images.append({"id": number, "file_name": name, "width": 30, "height": 20 + number})
        box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0}
        document = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "thing"}]}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def letterboxed(path: Path) -> np.ndarray:
    array, _ = letterbox_image(Image.open(path).convert("RGB"), SIZE[1], SIZE[0])
    return array.transpose(2, 0, 1)


def test_the_training_split_of_the_proofs_dataset_is_the_default(data: Path) -> None:
    found = choose_calibration(None, SIZE, count=5, data=data, proof=read_dataset(data, "val"))
    assert (found.source, found.split, len(found.pictures)) == ("pictures of it0", "train", 5)
    for picture in found.pictures:
        assert picture.sha256 == hashlib.sha256((data / "train" / picture.name).read_bytes()).hexdigest()
    assert found.entry().images == {picture.name: picture.sha256 for picture in found.pictures}


@pytest.mark.parametrize("given", ["{data}:train", "{data}/train"])
def test_pictures_are_letterboxed_as_everywhere_and_come_in_batches(data: Path, given: str) -> None:
    found = choose_calibration(given.format(data=data), SIZE, count=5)
    batches = list(found.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    for picture, pixels in zip(found.pictures, np.concatenate(batches), strict=True):
        assert np.array_equal(pixels, letterboxed(data / "train" / picture.name))


def test_an_array_of_the_models_size_is_taken_as_it_is(data: Path, tmp_path: Path) -> None:
    array = np.stack([letterboxed(path) for path in sorted((data / "train").iterdir())])
    np.savez(tmp_path / "pictures.npz", images=array)
    found = choose_calibration(str(tmp_path / "pictures.npz"), SIZE, count=20, proof=read_dataset(data, "val"))
    assert np.array_equal(found.images, array)
    assert found.pictures[3].name == "pictures.npz[3]"


def test_the_choice_is_spread_seeded_and_without_repetition() -> None:
    chosen = spread(1000, 10, seed=0)
    assert [index // 100 for index in chosen] == list(range(10))
    assert chosen == spread(1000, 10, seed=0) != spread(1000, 10, seed=1)
    assert spread(7, 64, seed=3) == list(range(7))


@pytest.mark.parametrize("kind", ["file", "pixels"])
def test_a_picture_of_the_proof_is_refused_by_name(data: Path, tmp_path: Path, kind: str) -> None:
    if kind == "file":  # under another name
        (tmp_path / "renamed.png").write_bytes((data / "val" / "val 02.png").read_bytes())
        given = str(tmp_path)
    else:
        np.save(tmp_path / "array.npy", letterboxed(data / "val" / "val 02.png")[None])
        given = str(tmp_path / "array.npy")
    with pytest.raises(UserError, match=r"also in the proof's split .* val: .*\(val 02\.png\)"):
        choose_calibration(given, SIZE, proof=read_dataset(data, "val"))


def test_what_cannot_be_calibrated_on_is_refused_in_a_sentence(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "large.npy", np.zeros((2, 3, 128, 96), np.uint8))
    np.save(tmp_path / "floats.npy", np.zeros((2, 3, 64, 96), np.float32))
    np.save(tmp_path / "none.npy", np.zeros((0, 3, 64, 96), np.uint8))
    for given, words in {
        f"{tmp_path}/empty": "has no pictures",
        f"{tmp_path}/nowhere": "does not exist",
        f"{data}:test": "no split 'test'",
        f"{tmp_path}/large.npy": "of 128x96 .* the model takes 64x96",
        f"{tmp_path}/floats.npy": "float32",
        f"{tmp_path}/none.npy": "has no pictures",
    }.items():
        with pytest.raises(UserError, match=words):
            choose_calibration(given, SIZE)
    with pytest.raises(UserError, match="give --calibration"):
        choose_calibration(None, SIZE)


def test_a_dataset_without_training_split_asks_for_pictures(data: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for name in ("val", "annotations/instances_val.json"):
        (tmp_path / name).symlink_to(data / name)
    with pytest.raises(UserError, match=r"no training split .*it has val.*other pictures"):
        choose_calibration(None, SIZE, data=tmp_path)
