"""Lines about a bundle: machines and proof."""

from pathlib import Path

import pytest

from detheads.foundation.bundle import read_manifest
from detheads.foundation.gpus import named, served
from detheads.foundation.manifest import BundleManifest, EngineEntry
from detheads.foundation.summary import machines, proof_line

ENGINE = EngineEntry(
    file="engines/model.engine",
    sha256="0" * 64,
    bytes=20_000_000,
    builder="tensorrt_rtx 1.5",
    batch=(1, 4, 8),
    compute_capabilities=["SM86", "SM89"],
    build_seconds=1.0,
    layer_types={},
    status="built, not executed",
)


@pytest.fixture
def manifest(bundle: Path) -> BundleManifest:
    return read_manifest(bundle)


def test_machines_are_named_with_those_that_people_ask_for_in_vain(manifest: BundleManifest) -> None:
    graph, engine, others = machines(manifest.model_copy(update={"engines": [ENGINE]}))
    assert graph[0] == "model.onnx"
    assert "Raspberry Pi" in graph[1]
    assert "Jetson" in graph[1]
    assert "for RTX 30 series, A10, A40 (SM86); RTX 40 series, L4, L40 (SM89); not Jetson Orin (SM87)" in engine[1]
    assert "trtexec --onnx=model.onnx --minShapes=images:1x3x160x160" in others[1]


def test_an_engine_for_the_machine_that_built_it_and_unknown_gpus_stay_as_they_are() -> None:
    assert served(["the GPU of the building machine"]) == "the GPU of the building machine"
    assert named("SM999") == "SM999"
    assert "not" not in served(["SM87", "SM90"])


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({}, "holds: mAP "),
        ({"passed": False}, "FAILED: mAP "),
        ({"map_live": None}, "mAP undefined in PyTorch"),
        ({"training_pictures": 7}, "; these are training pictures"),
        ({"training_pictures": 3}, "; 3 of these are training pictures"),
        ({"onnx_sha256": "1" * 64}, "of another graph"),
    ],
)
def test_the_proof_is_told_in_a_line(manifest: BundleManifest, update: dict[str, object], said: str) -> None:
    assert manifest.verification is not None
    proof = manifest.verification.model_copy(update=update)
    assert said in proof_line(manifest.with_head(manifest.first.model_copy(update={"verification": proof})))


def test_a_bundle_without_a_proof_says_so(manifest: BundleManifest) -> None:
    unproven = manifest.with_head(manifest.first.model_copy(update={"verification": None}))
    assert proof_line(unproven).startswith("none: ")
