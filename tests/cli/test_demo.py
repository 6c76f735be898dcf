"""The demo on a tiny dataset of the user's own, in a process of its own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detheads.data.scenes import generate
from detheads.foundation.bundle import read_manifest


@pytest.mark.slow
def test_demo_on_a_users_folder_goes_from_images_to_a_proven_bundle(tmp_path: Path) -> None:
    data, output = tmp_path / "my pictures", tmp_path / "out"
    generate(data, 6, 4, size=96, seed=2)
    line = ("demo", "--data", data, "-o", output, "--size", 96, "--epochs", 1, "--json")
    command = [sys.executable, "-c", "from detheads.cli.main import main; main()", *map(str, line)]
    for _ in range(2):  # the second time it finds its caches and its run
        finished = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert finished.returncode == 0, finished.stderr[-2000:]
        answer = json.loads(finished.stdout)
        assert set(answer) >= {"map", "onnx_map", "map_drop", "engine", "seconds"}
        assert 0 <= answer["map"] <= 1
        assert abs(answer["map_drop"]) <= 0.001
        assert answer["map_drop"] == pytest.approx(answer["live_map"] - answer["onnx_map"], abs=1e-9)
        for name in ("bundle", "picture", "report", "page"):
            assert Path(answer[name]).exists(), name
        with Image.open(answer["picture"]) as picture:
            picture.load()
        manifest = read_manifest(Path(answer["bundle"]))
        assert manifest.state == "verified"
        if answer["engine"] is None:
            assert answer["engine_status"]
        else:
            assert Path(answer["engine"]).stat().st_size > 100_000
    assert answer["steps"]["train"] >= 0


def _folder(tmp_path: Path, *, keep: str) -> Path:
    data = tmp_path / "data"
    generate(data, 1, 1, size=64)
    other = {"train": "val", "val": "train"}[keep]
    (data / "annotations" / f"instances_{other}.json").unlink()
    shutil.rmtree(data / other)
    return data


@pytest.mark.parametrize("keep", ["train", "val"])
def test_a_dataset_that_lacks_a_split_is_one_sentence(keep: str, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    data = _folder(tmp_path, keep=keep)
    finished = detheads("demo", "--data", data, "-o", tmp_path / "out", "--json")
    assert (finished.code, finished.result) == (1, "")
    (line,) = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert line == f"error: {data} has the splits {keep}; the demo needs a training and a validation split."
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--data", "nowhere"), "nowhere does not exist"),
        (("--size", 100), "effnet_lite0 needs input sides that are multiples of 32, not 100x100"),
    ],
)
def test_other_mistakes_are_one_sentence(
    options: tuple[object, ...],
    sentence: str,
    tmp_path: Path,
    detheads: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("detheads.demo.SCENES", {"train": 1, "val": 1})
    finished = detheads("demo", "-o", tmp_path / "out", *options)
    assert finished.code == 1
    assert sentence in finished.err.splitlines()[-1]
