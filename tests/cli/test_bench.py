"""The benchmarks as commands, on tiny inputs: what they print and what they leave behind."""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from detheads.backbones.backbone import load_backbone
from detheads.bench.caching import CacheBench
from detheads.bench.training import TrainBench
from detheads.cache import checked
from detheads.cache.builder import build_cache
from detheads.data import read_dataset
from detheads.data.scenes import generate


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "scenes"
    generate(folder, 5, 1, size=96)
    return folder


@pytest.fixture(scope="module")
def cache(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "cache"
    build_cache(read_dataset(scenes, "train"), load_backbone("timm:test_vit", (96, 96), random_weights=True), folder)
    return folder


def test_bench_cache_relates_caching_to_the_bare_forward(scenes: Path, detheads: Callable[..., Any]) -> None:
    line = ("--split", "train", "--backbone", "timm:test_vit", "--random-weights", "--size", 96, "--batch", 2)
    finished = detheads("bench", "cache", scenes, *line, "--images", 3, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert set(answer) == {field.name for field in fields(CacheBench)}
    assert (answer["images"], answer["batch"], answer["precision"]) == (3, 2, "fp32")
    assert 0 <= answer["waiting"] <= 1
    printed = detheads("bench", "cache", scenes, *line).out
    assert re.match(r"caching [\d.]+ images/s, bare forward [\d.]+ images/s \(baseline\), ratio [\d.]+, ", printed)


@pytest.mark.parametrize("batch", [2, 5])
def test_bench_train_relates_steps_from_the_cache_to_steps_from_memory(
    batch: int, cache: Path, detheads: Callable[..., Any]
) -> None:
    line = ("--head", "fcos", "-O", "width=16", "-O", "tower_blocks=1", "--batch", batch, "--steps", 3, "--threads", 1)
    finished = detheads("bench", "train", cache, *line, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert set(answer) == {field.name for field in fields(TrainBench)}
    assert (answer["steps"], answer["batch"], answer["device"]) == (5 // batch, batch, "cpu, 1 thread")
    assert re.match(
        r"a step takes [\d.]+ s from the cache, [\d.]+ s from memory \(baseline\), ratio [\d.]+; [\d.]+ images/s "
        r"from the cache, waiting [\d.]+% of the time \(cpu, 1 thread; 3 epochs of \d steps of \d images; peak memory",
        detheads("bench", "train", cache, *line).out.replace("\n", " "),
    )


def test_bench_train_leaves_nothing_behind(
    cache: Path, tmp_path: Path, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def contents() -> dict[Path, int]:
        # Whoever reads files that are older than two seconds notes that they are whole.
        return {path: path.stat().st_mtime_ns for path in cache.iterdir() if path.name != checked.NAME}

    before = contents()
    line = ("--head", "fcos", "-O", "width=16", "-O", "tower_blocks=1", "--batch", 2, "--steps", 3, "--json")
    assert detheads("bench", "train", cache, *line).code == 0
    assert not list(tmp_path.iterdir())
    assert contents() == before


def test_a_cache_smaller_than_a_batch_is_one_sentence(cache: Path, detheads: Callable[..., Any]) -> None:
    finished = detheads("bench", "train", cache, "--batch", 6)
    assert finished.code == 1
    assert finished.err.lstrip() == f"error: {cache} holds 5 images, less than a batch of 6; use a smaller --batch.\n"


def test_bench_engines_builds_each_precision_once(
    detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")
    from detheads.bench import engines
    from tests.deploy.engines.graphs import detector

    monkeypatch.setattr(engines, "trace_dense", lambda graph: detector())  # tracing is tested elsewhere, and slow
    monkeypatch.setattr(engines, "with_suppression", lambda dense, *options: dense)
    line = ("--backbone", "timm:test_vit", "--size", 96, "--random-weights", "--library", "tensorrt_rtx", "--batch", 2)
    finished = detheads("bench", "engines", *line, "--compute-capability", "SM86", "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    (row,) = answer["rows"]
    assert (answer["backbone"], answer["head"], answer["size"]) == ("timm:test_vit", "split_tower", [96, 96])
    assert (answer["batch"], answer["compute_capabilities"], row["precision"]) == ([2, 2, 2], ["SM86"], "fp32")
    assert row["engine_bytes"] > row["onnx_bytes"] > 0
    assert row["layer_types"]["FLOAT"] > 0
    refused = detheads("bench", "engines", *line, "--precision", "fp61")
    assert "--precision is one of fp32, fp16, bf16, int8, mixed, not 'fp61'. Did you mean 'fp16'?" in refused.err
    missing = detheads("bench", "engines", *line, "--precision", "int8")
    assert "give --calibration" in missing.err
