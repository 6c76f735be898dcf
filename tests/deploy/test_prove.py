"""A device checks a bundle by the pictures that it carries, without torch, and says so in the bundle."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detheads.deploy.probes import read_probes
from detheads.deploy.prove import read_verdicts
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.contents import compare
from detheads.foundation.errors import UserError
from tests.deploy.test_deploy import WITHOUT_TORCH
from tests.export.toy import AP_TOLERANCE, Toy
from tests.foundation.test_bundle import change


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))


def edit_probes(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    index = atomic.read_json(bundle / "probes" / "probes.json")
    edit(index)
    atomic.write_json(bundle / "probes" / "probes.json", index)


def test_an_exported_bundle_carries_pictures_in_which_pytorch_found_something(bundle: Path) -> None:
    probes = read_probes(bundle, read_manifest(bundle))
    assert len(probes.probes) == 4
    assert all(len(probe.found["head"].scores) > 5 for probe in probes.probes)
    assert (probes.source, probes.measured, probes.required) == ("generated scenes", 1.0, 0.98)


def test_a_device_without_torch_proves_the_bundle_and_leaves_it_as_it_was_made(copy: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "bundle", "prove", str(copy), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["passed"], verdict["file"], verdict["probes"]["matched"]) == (True, "model.onnx", 1.0)
    assert verdict["probes"]["detections"] >= 20
    assert [each.model_dump(mode="json") for each in read_verdicts(copy)] == [verdict]
    assert compare(copy, read_manifest(copy)).intact


def test_a_device_that_finds_other_boxes_fails_and_says_so_in_the_bundle(
    copy: Path, detheads: Callable[..., Any]
) -> None:
    def shift(index: dict[str, Any]) -> None:
        for found in index["probes"][0]["found"]["head"]["boxes"]:
            found[:] = [side + 40 for side in found]

    assert detheads("bundle", "prove", copy).code == 0
    edit_probes(copy, shift)
    failed = detheads("bundle", "prove", copy)
    assert failed.code == 1
    assert "only 75.0 % of the best detections in the probes match PyTorch's, required are 98.0 %" in failed.out
    assert [each.passed for each in read_verdicts(copy)] == [False], "one verdict for each machine and runtime"
    shown = detheads("bundle", "inspect", copy)
    assert "proven by a device:\n  proof FAILED: model.onnx on onnxruntime" in shown.out


def test_each_runtime_has_a_verdict_of_its_own(copy: Path, detheads: Callable[..., Any]) -> None:
    pytest.importorskip("openvino")
    for name in ("cpu", "openvino"):
        assert detheads("bundle", "prove", copy, "--backend", name).code == 0
    assert [each.runtime.split()[0] for each in read_verdicts(copy)] == ["onnxruntime", "openvino"]


def test_probes_without_detections_prove_nothing(copy: Path, detheads: Callable[..., Any]) -> None:
    def empty(index: dict[str, Any]) -> None:
        for probe in index["probes"]:
            probe["found"]["head"] = {"boxes": [], "scores": [], "labels": []}

    edit_probes(copy, empty)
    failed = detheads("bundle", "prove", copy)
    assert failed.code == 1
    assert "equality proves nothing; give --data DATASET" in failed.out


def test_with_data_the_map_is_measured_and_held_against_the_proof(
    copy: Path, toy: Toy, detheads: Callable[..., Any]
) -> None:
    done = detheads("bundle", "prove", copy, "--data", toy.data, "--json")
    assert done.code == 0, done.err
    (data,) = json.loads(done.out)["data"]
    proof = read_manifest(copy).verification
    assert proof is not None
    assert data["map"] == pytest.approx(proof.artefacts[0].map, abs=AP_TOLERANCE)
    assert data["map_proven"] == proof.map_live
    change(copy, "heads", [_with_map(read_manifest(copy).heads[0].model_dump(mode="json"), 0.9)])
    failed = detheads("bundle", "prove", copy, "--data", toy.data)
    assert failed.code == 1
    assert "mAP differs by +0." in failed.out


def _with_map(head: dict[str, Any], value: float) -> dict[str, Any]:
    head["verification"]["map_live"] = value
    return head


def test_a_bundle_that_cannot_be_written_gives_its_verdict_all_the_same(
    copy: Path, detheads: Callable[..., Any]
) -> None:
    (copy / "device.json").mkdir()
    done = detheads("bundle", "prove", copy)
    assert done.code == 0
    assert "proof holds" in done.out
    assert "the verdict was not written" in done.err


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda copy: shutil.rmtree(copy / "probes"), "carries no probes; export it again"),
        (lambda copy: (copy / "probes" / "01.png").write_bytes(b"PNG"), r"01\.png is missing or altered"),
        (lambda copy: edit_probes(copy, lambda index: index.update(onnx_sha256="0")), "belongs to another graph"),
        (lambda copy: edit_probes(copy, lambda index: index.update(required=2)), "is not valid: required"),
        (lambda copy: edit_probes(copy, lambda index: index["probes"][0].update(file="../a")), "leaves its folder"),
        (lambda copy: edit_probes(copy, lambda index: index["probes"][0].update(found={})), "speaks of other heads"),
    ],
)
def test_probes_that_cannot_be_used_are_refused(
    copy: Path, detheads: Callable[..., Any], spoil: Callable[[Path], Any], sentence: str
) -> None:
    spoil(copy)
    with pytest.raises(UserError, match=sentence):
        read_probes(copy, read_manifest(copy))
    assert detheads("bundle", "prove", copy).code == 1


def test_pictures_of_the_dataset_travel_only_when_asked_for_and_as_pixels_alone(copy: Path, toy: Toy) -> None:
    from detheads.data import read_dataset
    from detheads.export.device_probes import ProbeChoice, write_probes
    from detheads.export.source import load_trained

    manifest = read_manifest(copy)
    trained = {"head": load_trained(toy.run)}
    write_probes(copy, manifest, trained, ProbeChoice(2, own=True), read_dataset(toy.data, "val"))
    probes = read_probes(copy, manifest)
    assert (probes.source, len(probes.probes)) == ("pictures of it val", 2)
    with Image.open(copy / probes.probes[0].file) as picture, Image.open(toy.images / "bild 0.png") as original:
        assert picture.tobytes() == original.tobytes()
        assert picture.info == {}
    with pytest.raises(UserError, match="need --data"):
        write_probes(copy, manifest, trained, ProbeChoice(2, own=True))
