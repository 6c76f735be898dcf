"""``detheads doctor``."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads import __version__
from detheads.deploy import runtime
from detheads.deploy.doctor import bundle as examined
from detheads.foundation.atomic import sha256_of
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.manifest import EngineEntry
from detheads.foundation.memory import Memory


def test_what_is_installed_and_what_it_allows_is_listed(detheads: Callable[..., Any]) -> None:
    import torch

    answer = json.loads(detheads("doctor", "--json").out)
    assert answer["detheads"] == __version__
    assert answer["software"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert "CPUExecutionProvider" in answer["software"]["onnxruntime_providers"]
    assert len(answer["software"]["gpus"]) == torch.cuda.device_count()
    able = {each["what"]: each["able"] for each in answer["able"]}
    assert able["run bundles"] and able["train"] and able["export"]
    printed = detheads("doctor").out
    assert f"detheads {__version__}" in printed
    assert "yes run bundles: ONNX Runtime" in printed


def test_what_stands_in_the_way_is_said(detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    builds = {"onnxruntime": "1.20.0", "onnxruntime-gpu": "1.20.0"}
    monkeypatch.setattr("detheads.deploy.doctor.software.installed_builds", lambda: builds)
    monkeypatch.setattr(runtime, "installed_builds", lambda: builds)
    answer = json.loads(detheads("doctor", "--json").out)
    assert answer["software"]["packages"]["onnxruntime-gpu"] == "1.20.0"
    assert "keep one" in answer["advice"][0]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finished = detheads("doctor")
    assert finished.code == 0
    assert "ONNX Runtime is installed; install one build of it" in finished.out
    assert "ONNX Runtime providers: none" in finished.out


def test_a_bundle_is_run_here_and_timed(bundle: Path, detheads: Callable[..., Any]) -> None:
    finished = detheads("doctor", "--bundle", bundle, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)["bundle"]
    assert answer["runs"] and answer["proof"] == "verified"
    assert answer["backends"]["cpu"] > 0
    assert list(answer["backends"].values()) == sorted(answer["backends"].values())
    assert answer["judged"].startswith("judged by")
    assert 0.1 < answer["first_detection_seconds"] < 60
    if sys.platform == "linux":
        assert 30e6 < answer["peak_memory"] < 1e9
    assert answer["proven_here"] == ""


def test_a_bundle_of_which_nothing_runs_ends_with_code_1_and_the_reasons(
    bundle: Path, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detheads.deploy.auto.candidates", lambda manifest: ([], {"onnx_runtime": "it is not here."}))
    finished = detheads("doctor", "--bundle", bundle)
    assert finished.code == 1
    assert "DOES NOT RUN here" in finished.out
    assert "no  onnx_runtime: it is not here." in finished.out


def test_a_bundle_that_memory_does_not_hold_is_not_tried(
    bundle: Path, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examined, "available_memory", lambda: Memory(10**9, 10**9, 64 * 10**6, 0))
    finished = detheads("doctor", "--bundle", bundle, "--json")
    answer = json.loads(finished.out)["bundle"]
    assert (finished.code, answer["runs"], answer["peak_memory"]) == (1, False, None)
    assert "64.0 MB are free" in answer["refused"]["every backend"]


def test_what_is_no_bundle_is_one_sentence(tmp_path: Path, bundle: Path, detheads: Callable[..., Any]) -> None:
    finished = detheads("doctor", "--bundle", tmp_path)
    assert (finished.code, finished.result) == (1, "")
    assert "is not a bundle" in finished.err
    broken = shutil.copytree(bundle, tmp_path / "broken.detheads")
    (broken / "model.onnx").write_bytes(b"no graph")
    finished = detheads("doctor", "--bundle", broken)
    assert finished.code == 1
    assert "it was copied in part" in finished.err


def test_an_engine_says_why_it_does_not_run_here(tmp_path: Path, bundle: Path, detheads: Callable[..., Any]) -> None:
    copy = shutil.copytree(bundle, tmp_path / "engines.detheads")
    manifest = read_manifest(copy)
    (copy / "engines").mkdir()
    (copy / "engines/old.engine").write_bytes(b"engine")
    entry = EngineEntry(
        file="engines/old.engine",
        sha256=sha256_of(copy / "engines/old.engine"),
        bytes=6,
        builder="tensorrt 10.3.0",
        batch=(1, 1, 1),
        compute_capabilities=["SM87"],
        build_seconds=1,
        layer_types={},
        status="built, not executed",
        onnx_sha256="0" * 64,
    )
    write_manifest(copy, manifest.model_copy(update={"engines": [entry]}))
    finished = detheads("doctor", "--bundle", copy)
    assert finished.code == 0
    assert "no  engines/old.engine (tensorrt 10.3.0): it was built from another model.onnx" in finished.out


def test_it_needs_no_torch(bundle: Path) -> None:
    code = """
import sys
for name in ("torch", "timm", "onnx", "torchvision"): sys.modules[name] = None
from detheads.cli.main import run
sys.exit(run(["doctor"]))
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "yes run bundles" in finished.stdout
