"""Class embeddings: read from files, matched with a dataset's classes, or computed by a real text encoder."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detheads.backbones.text import (
    COCO_NAMES,
    TEMPLATES,
    compute_class_embeddings,
    load_class_embeddings,
    save_class_embeddings,
)
from detheads.foundation.errors import UserError

ARCHITECTURE = "ViT-S-32-alt"
"""The smallest of open_clip's that needs nothing but open_clip."""


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


def test_a_missing_class_is_named(tmp_path: Path, table: np.ndarray) -> None:
    save_class_embeddings(tmp_path / "a.npz", ["ant", "bee", "cow"], torch.from_numpy(table))
    with pytest.raises(UserError, match="has no embedding for owl, emu; add it or leave --text out"):
        load_class_embeddings(tmp_path / "a.npz", ["ant", "owl", "emu"])


def test_another_number_of_rows_is_refused(tmp_path: Path, table: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(UserError, match="holds 3 embeddings for 2 classes; one each is needed"):
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


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of a real architecture with random weights, in half precision."""
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE)
    path: Path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save({name: value.half() for name, value in model.state_dict().items()}, path)
    return path


def test_embeddings_of_a_real_encoder_are_the_mean_of_eight_prompts(clip_weights: Path) -> None:
    import open_clip

    found = compute_class_embeddings(["cat", "traffic light"], ARCHITECTURE, clip_weights)
    model = open_clip.create_model(ARCHITECTURE).eval()
    model.load_state_dict(torch.load(clip_weights, weights_only=True))
    tokens = open_clip.tokenizer.SimpleTokenizer()([template.format("traffic light") for template in TEMPLATES])
    with torch.no_grad():
        prompts = model.encode_text(tokens)
    assert len(TEMPLATES) == len(prompts) == 8
    mean = (prompts / prompts.norm(dim=1, keepdim=True)).mean(dim=0)
    torch.testing.assert_close(found[1], mean / mean.norm(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[1])


def test_the_command_writes_a_file_that_training_reads(
    clip_weights: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    target = tmp_path / "new folder" / "text.npz"
    line = ("--weights", clip_weights, "--model", ARCHITECTURE, "-o", target, "--json")
    finished = detheads("text", "embed", "cat", "größte Eule", *line)
    assert finished.code == 0, finished.err
    assert json.loads(finished.out) == {
        "output": str(target),
        "classes": 2,
        "dimension": 256,
        "model": ARCHITECTURE,
    }
    loaded = load_class_embeddings(target, ["größte Eule", "cat"])
    torch.testing.assert_close(loaded.norm(dim=1), torch.ones(2))
    assert [path.name for path in target.parent.iterdir()] == ["text.npz"]


@pytest.mark.parametrize(
    ("model", "content", "sentence"),
    [
        ("ViT-Q-77", None, "open_clip has no architecture 'ViT-Q-77'"),
        ("ViT-B-32", None, "is damaged or does not fit open_clip's ViT-B-32"),
        (ARCHITECTURE, b"", "is damaged or does not fit"),
        (ARCHITECTURE, b"hello world" * 50, "is damaged or does not fit"),
        (ARCHITECTURE, b"PK\x03\x04" + b"\x00" * 90, "is damaged or does not fit"),
    ],
)
def test_unknown_architectures_and_files_that_do_not_fit_are_one_sentence(
    model: str,
    content: bytes | None,
    sentence: str,
    clip_weights: Path,
    tmp_path: Path,
    detheads: Callable[..., Any],
) -> None:
    weights = clip_weights
    if content is not None:
        weights = tmp_path / "weights.pt"
        weights.write_bytes(content)
    finished = detheads("text", "embed", "cat", "--weights", weights, "--model", model, "-o", tmp_path / "a.npz")
    assert (finished.code, finished.result) == (1, "")
    assert sentence in finished.err.splitlines()[-1]
    assert not (tmp_path / "a.npz").exists()


class Harmful:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_code_inside_a_weight_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Harmful(tmp_path / "harm")}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="is damaged or does not fit"):
        compute_class_embeddings(["cat"], ARCHITECTURE, tmp_path / "weights.pt")
    assert not (tmp_path / "harm").exists()


def test_files_that_are_not_there_and_wrong_endings_are_one_sentence(
    tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    weights = tmp_path / "none.pt"
    absent = detheads("text", "embed", "cat", "--weights", weights, "--model", ARCHITECTURE, "-o", tmp_path / "a.npz")
    assert (absent.code, absent.err) == (1, f"error: {weights} does not exist.\n")
    ending = detheads("text", "embed", "cat", "--weights", weights, "-o", tmp_path / "a.csv")
    assert (ending.code, ending.err) == (1, f"error: {tmp_path / 'a.csv'} must end in .npz.\n")
