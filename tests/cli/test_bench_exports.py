"""``bench graph`` and ``bench export`` on the toy: what they print and what they leave behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from detheads.bench.graph import count_nodes
from tests.export.toy import Toy

pytest.importorskip("onnxscript")


def test_bench_graph_tells_what_takes_the_time(bundle: Path, toy: Toy, detheads: Callable[..., Any]) -> None:
    line = ("bench", "graph", bundle, "--picture", toy.images / "bild 0.png", "--rounds", 3)
    finished = detheads(*line, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert answer["nodes"] == count_nodes(onnx.load(str(bundle / "model.onnx")).graph)
    assert 70 < answer["suppression_nodes"] < 90
    assert 0 < answer["detections"] <= 20
    kinds = answer["kinds"]
    assert list(kinds.values()) == sorted(kinds.values(), reverse=True)
    assert kinds["Conv"] > 0
    products = kinds["Conv"] + kinds.get("ConvTranspose", 0) + kinds.get("MatMul", 0) + kinds.get("Gemm", 0)
    products += kinds.get("FusedMatMul", 0)
    assert answer["share"] == pytest.approx(products / (sum(kinds.values()) + answer["suppression"]))
    assert "convolutions and matrix products: 0." in detheads(*line).out


def test_bench_export_tells_the_seconds_of_each_step(
    toy: Toy, detheads: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    finished = detheads("bench", "export", toy.run, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert list(answer["steps"]) == ["loading", "tracing", "self-check", "writing the graph", "probes"]
    assert sum(answer["steps"].values()) == pytest.approx(answer["seconds"], rel=0.2)
    assert answer["bytes"] > 1e5
    assert answer["peak_memory_mb"] > 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["graph", "export"])
def test_what_is_not_there_is_one_sentence(verb: str, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    done = detheads("bench", verb, tmp_path / "nothing")
    assert done.code == 1
    assert done.err.count("error: ") == 1
    assert "nothing" in done.err
