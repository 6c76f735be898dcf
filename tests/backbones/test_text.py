"""Class embeddings: read from files and matched with a dataset's classes."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from detheads.backbones.text import (
    COCO_NAMES,
    Encoder,
    load_class_embeddings,
    read_embeddings,
    save_class_embeddings,
)
from detheads.foundation.errors import UserError


def _unit(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values / np.linalg.norm(values, axis=1, keepdims=True)).float()


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 6))


def test_the_clip_file_is_matched_by_cocos_names(clip_embeddings: Path) -> None:
    raw = np.load(clip_embeddings)
    found = load_class_embeddings(clip_embeddings, ["toothbrush", "person", "zebra"])
    torch.testing.assert_close(found, _unit(raw[[79, 0, 22]].astype(np.float64)))
    every = load_class_embeddings(clip_embeddings, COCO_NAMES)
    assert every.shape == (80, 512)
    # Meaning, not only shape: related names are closer than unrelated ones.
    row = dict(zip(COCO_NAMES, every, strict=True))
    assert row["cat"] @ row["dog"] > row["cat"] @ row["airplane"]
    assert row["fork"] @ row["knife"] > row["fork"] @ row["elephant"]


def test_coco_names_are_eighty_different_ones() -> None:
    assert len(COCO_NAMES) == len(set(COCO_NAMES)) == 80


def test_eighty_rows_of_another_dataset_keep_their_order(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(80, 4))
    np.save(tmp_path / "a.npy", values)
    names = [f"thing {number}" for number in range(80)]
    torch.testing.assert_close(load_class_embeddings(tmp_path / "a.npy", names), _unit(values))


def test_nameless_rows_are_in_the_order_of_the_classes(tmp_path: Path, table: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", table.astype(np.float16))
    found = load_class_embeddings(tmp_path / "a.npy", ["x", "y", "z"])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, _unit(table), rtol=2e-3, atol=2e-3)


def test_named_rows_are_matched_by_name(tmp_path: Path, table: np.ndarray) -> None:
    save_class_embeddings(tmp_path / "a.npz", ["ant", "größte Eule", "cow"], torch.from_numpy(table))
    found = load_class_embeddings(tmp_path / "a.npz", ["cow", "ant"])
    torch.testing.assert_close(found, _unit(table[[2, 0]]))
    torch.testing.assert_close(load_class_embeddings(tmp_path / "a.npz", ["größte Eule"]), _unit(table[[1]]))


def test_what_a_file_lacks_and_what_it_has_are_both_named(tmp_path: Path, table: np.ndarray) -> None:
    save_class_embeddings(tmp_path / "a.npz", ["ant", "bee", "cow"], torch.from_numpy(table))
    with pytest.raises(UserError, match="has no embedding for owl, cows; it has those of ant, bee, cow; add"):
        load_class_embeddings(tmp_path / "a.npz", ["ant", "owl", "cows"])


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, table: np.ndarray) -> None:
    save_class_embeddings(tmp_path / "a.npz", ["ant", "bee", "ant"], torch.from_numpy(table))
    with pytest.raises(UserError, match="two embeddings or more for ant; keep one each"):
        load_class_embeddings(tmp_path / "a.npz", ["bee"])


def test_a_file_tells_what_made_it(tmp_path: Path) -> None:
    made_by = Encoder("ViT-B-32", "0" * 64, ("a {}", "größere {}"))
    save_class_embeddings(tmp_path / "a.npz", ["ant", "bee"], torch.eye(2), made_by)
    assert read_embeddings(tmp_path / "a.npz").encoder == made_by
    save_class_embeddings(tmp_path / "b.npz", ["ant", "bee"], torch.eye(2))
    assert read_embeddings(tmp_path / "b.npz").encoder is None


def test_another_number_of_rows_is_refused(tmp_path: Path, table: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(UserError, match=r"holds 3 embeddings for 2 classes \(x, y\); one each is needed"):
        load_class_embeddings(tmp_path / "a.npy", ["x", "y"])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_rows_without_a_direction_are_refused(tmp_path: Path, table: np.ndarray, value: float) -> None:
    table[1] = value
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(UserError, match="zero or not finite"):
        load_class_embeddings(tmp_path / "a.npy", ["x", "y", "z"])


def _damaged(folder: Path) -> dict[str, Path]:
    whole = folder / "whole.npz"
    save_class_embeddings(whole, ["a", "b"], torch.eye(2))
    content = whole.read_bytes()
    flipped = bytearray(content)
    flipped[content.rindex(b"\x93NUMPY") + 130] ^= 1
    files = {
        "empty.npy": b"",
        "noise.npy": b"\x17" * 300,
        "cut.npz": content[:-60],
        "flipped.npz": bytes(flipped),
        "pickled.npy": pickle.dumps([1, 2]),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    np.save(folder / "flat.npy", np.ones(5))
    np.save(folder / "whole-numbers.npy", np.ones((2, 3), dtype=np.int64))
    np.savez(folder / "nameless.npz", embeddings=np.eye(2))
    np.savez(folder / "scalar-name.npz", names=np.array("a"), embeddings=np.eye(2))
    np.savez(folder / "encoder.npz", names=np.array(["a", "b"]), embeddings=np.eye(2), encoder=np.array("[]"))
    np.savez(folder / "more-names.npz", names=np.array(["a", "b", "c"]), embeddings=np.eye(2))
    (folder / "folder.npy").mkdir()
    return {path.name: path for path in folder.iterdir() if path != whole} | {"absent.npy": folder / "absent.npy"}


def test_every_damaged_file_is_one_sentence_with_its_name(tmp_path: Path) -> None:
    for name, path in _damaged(tmp_path).items():
        try:
            load_class_embeddings(path, ["a", "b"])
        except UserError as error:
            assert name in str(error)
            assert "\n" not in str(error)
        else:
            pytest.fail(f"{name} was read")
