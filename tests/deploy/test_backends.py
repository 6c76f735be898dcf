"""A further runtime backend is one file: the command line runs a bundle with it under its own name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.deploy import backends
from detheads.foundation import atomic
from tests.export.toy import SIZES, Toy

BACKEND = '''
"""One box over the whole of every picture, on the device that is named."""

import numpy as np


class Whole:
    def __init__(self, manifest, device, threads):
        self.name, self.file = f"whole {device} {threads}", manifest.onnx.file
        self.box = [0, 0, manifest.input.width, manifest.input.height]

    def run(self, images):
        count = len(images)
        boxes = np.tile(np.array(self.box, np.float32), (count, 1, 1))
        scores, labels = np.full((count, 1), 0.75, np.float32), np.zeros((count, 1), np.int32)
        return {"boxes": boxes, "scores": scores, "labels": labels}


def open_backend(bundle, manifest, provider, threads):
    return Whole(manifest, provider.partition(":")[2], threads)
'''


def test_a_backend_of_one_file_runs_bundles(
    bundle: Path, toy: Toy, tmp_path: Path, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole.py").write_text(BACKEND, encoding="utf-8")
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    out = tmp_path / "out"
    line = ("deploy", "run", bundle, toy.images, "--threads", 3, "-o", out, "--json")
    finished = detheads(*line, "--backend", "whole:left")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert (answer["runtime"], answer["detections"]) == ("whole left 3", len(SIZES))
    entries, table = atomic.read_json(out / "detections.json"), atomic.read_json(out / "images.json")
    for entry, image in zip(entries, table["images"], strict=True):
        assert entry["bbox"] == [0, 0, image["width"], image["height"]]


def test_a_provider_of_no_backend_is_onnx_runtime_s_to_refuse(
    bundle: Path, toy: Toy, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    refused = detheads("deploy", "run", bundle, toy.images, "--backend", "whole:left", "-o", tmp_path / "out")
    assert refused.code == 1
    assert "ONNX Runtime has no whole:left here; it offers" in refused.err
