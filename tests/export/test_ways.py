"""A proof runs a bundle on every backend that is asked for, and says of engines that it did not run them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.export.ways import executed, further_ways, possible_sizes
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import EngineEntry
from tests.export.toy import Toy

ENGINE = EngineEntry(
    file="engines/model.engine",
    sha256="0" * 64,
    bytes=9,
    builder="tensorrt_rtx 1.7",
    batch=(1, 2, 4),
    compute_capabilities=["SM89"],
    build_seconds=1.0,
    layer_types={},
    status="built, not executed",
)


def test_verify_proves_the_graph_on_each_backend_that_is_asked_for(
    bundle: Path, toy: Toy, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    pytest.importorskip("openvino")
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    line = ("verify", copy, "--run", toy.run, "--data", toy.data, "--batch-sizes", "1,3", "--threads", 1)
    done = detheads(*line, "--backend", "cpu", "--backend", "openvino", "--json")
    assert done.code == 0, done.err
    proof = read_manifest(copy).verification
    assert proof is not None
    assert [(each.file, each.runtime.split()[0], each.batch) for each in proof.artefacts] == [
        ("model.onnx", "onnxruntime", 1),
        ("model.onnx", "onnxruntime", 3),
        ("model.onnx", "openvino", 1),
        ("model.onnx", "openvino", 3),
    ]
    assert {each.matched for each in proof.artefacts} == {1.0}
    assert [each["runtime"].split()[0] for each in json.loads(done.out)["artefacts"]][-1] == "openvino"


def test_an_engine_that_does_not_run_here_stays_built_and_the_reader_is_told(bundle: Path) -> None:
    manifest = read_manifest(bundle).model_copy(update={"engines": [ENGINE]})
    found = further_ways(bundle, manifest, None, 1, "head")
    assert found.executions == []
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("engines/model.engine was built, not executed: ")


def test_a_backend_that_was_asked_for_and_is_not_here_is_refused(bundle: Path) -> None:
    with pytest.raises(UserError, match=r"no nonsense here; it offers .* Backends are cpu, cuda, openvino"):
        further_ways(bundle, read_manifest(bundle), ["nonsense"], 1, "head")


def test_an_engine_is_run_at_the_batch_sizes_of_its_profile_and_then_called_executed(bundle: Path) -> None:
    manifest = read_manifest(bundle).model_copy(update={"engines": [ENGINE]})
    assert possible_sizes(manifest, "model.onnx", (2, 9)) == [1, 2, 9]
    assert possible_sizes(manifest, ENGINE.file, (2, 9)) == [1, 2]
    assert [engine.status for engine in executed([ENGINE], ["model.onnx"])] == ["built, not executed"]
    assert [engine.status for engine in executed([ENGINE], ["model.onnx", ENGINE.file])] == ["executed"]
