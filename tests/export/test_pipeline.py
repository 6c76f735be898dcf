"""Export and proof from end to end, on a toy run, with real ONNX Runtime sessions and a real engine build."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.deploy import Detector
from detheads.deploy.engines.options import BatchProfile, EngineOptions
from detheads.evaluation.scores import best_scores
from detheads.export.pipeline import Suppression, export_run, verify_bundle
from detheads.export.proof import Proof, proof_dataset
from detheads.export.sides import run_live
from detheads.export.source import dataset_sha256, load_trained, training_pictures
from detheads.export.target import require_target
from detheads.export.verify import coco_results
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.manifest import EngineEntry, Thresholds
from detheads.foundation.progress import silent
from detheads.foundation.summary import NOT_ENOUGH
from detheads.training.pictures import written
from tests.export.toy import SIZES, THRESHOLDS, Toy, live_detector, write_run

SHORT = THRESHOLDS.model_copy(update={"max_detections": 2})
"""A graph that is made fast."""


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))


@pytest.fixture
def data(toy: Toy, tmp_path: Path) -> Toy:
    """A dataset that may be changed."""
    return Toy(toy.run, Path(shutil.copytree(toy.data, tmp_path / "data")))


def test_report_holds_the_three_figures_and_every_depth(bundle: Path) -> None:
    report = atomic.read_json(bundle / "report.json")
    assert report["passed"] is True
    assert report["map_cache"] == 0.25
    assert 0.1 < report["map_live"] < 0.95
    assert abs(report["map_drop"]) <= 0.001
    assert [entry["batch"] for entry in report["artefacts"]] == [1, 2, 5]
    for entry in report["artefacts"]:
        assert entry["runtime"].endswith("CPUExecutionProvider")
        assert entry["versus_live"]["images"] == len(SIZES)
        assert entry["versus_live"]["matched"] > 20
        assert entry["versus_live"]["max_box_difference_px"] < 0.01
        assert entry["versus_batch_1"]["only_first"] == entry["versus_batch_1"]["only_second"] == 0
    assert report["tensors"]["images"] == len(SIZES)
    assert report["tensors"]["max_score_difference"] < 1e-4
    assert report["odd_shapes"]["images"] == 9
    assert report["odd_shapes"]["matched"] > 0
    low, high = report["dataset"]["aspect_ratio_range"]
    assert low < 0.2
    assert high > 6
    assert report["full_tables"] > 0
    assert any("have a full table of 20 detections" in remark for remark in report["remarks"])
    assert report["advice"] == report["apart"] == []
    text = (bundle / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Verification of toy: passed\n")
    assert "<title>Verification of toy: passed</title>" in (bundle / "report.html").read_text(encoding="utf-8")
    assert "feature cache, as trained | 0.2500" in text
    assert "## Best scores" in text


def test_manifest_holds_the_proof(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.state == "verified"
    assert manifest.verification is not None
    assert manifest.verification.onnx_sha256 == manifest.onnx.sha256 == atomic.sha256_of(bundle / "model.onnx")
    assert [(entry.id, entry.name) for entry in manifest.classes] == [(3, "cat"), (17, "dog"), (90, "größte Eule")]
    assert manifest.backbone.weights_sha256 is None
    assert manifest.first.parity.dense_boxes < 1e-2
    assert manifest.verification.training_pictures is None
    assert manifest.verification.full_tables > 0
    assert manifest.verification.limits["class"] == 0.01
    assert manifest.verification.min_matched == 0.99
    assert len(manifest.verification.shortcomings or ()) == 2  # few images, few boxes
    for proof in manifest.verification.artefacts:
        assert proof.precision == "fp32"
        assert proof.map50 is not None and proof.map75 is not None and proof.map50 > proof.map75
        assert proof.map_drop_interval is not None and max(map(abs, proof.map_drop_interval)) < 1e-3
        assert proof.worst_class in {"cat", "dog", "größte Eule"}
        assert proof.milliseconds is not None and proof.milliseconds > 0


def test_best_scores_are_those_of_the_proofs_detections(bundle: Path, toy: Toy) -> None:
    manifest, dataset, live = read_manifest(bundle), proof_dataset(toy.data), live_detector(toy.run)
    _, found, _ = run_live(live, dataset, silent)
    assert manifest.best_scores == best_scores(dataset.coco_json(), coco_results(dataset, found))
    assert set(manifest.best_scores) <= {"cat", "dog", "größte Eule"}
    assert len(manifest.best_scores) >= 2
    assert "IoU 0.5" in manifest.first.best_scores_rule
    assert f"{len(SIZES)} images of {toy.data.name} val" in manifest.first.best_scores_rule


def test_another_graph_has_no_proof(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    other = manifest.onnx.model_copy(update={"sha256": "f" * 64})
    assert manifest.model_copy(update={"onnx": other}).state == "unverified"


def test_an_engine_and_a_profile_go_into_the_bundle(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")
    target = tmp_path / "with engine.detheads"
    small = THRESHOLDS.model_copy(update={"max_detections": 5})
    options = EngineOptions(BatchProfile(1, 2, 3))
    result = export_run(toy.run, target, proof=None, thresholds=small, engine=options, profiles=("raw",))
    manifest = read_manifest(target)
    (engine,) = manifest.engines
    assert engine.status == "built, not executed"
    assert engine.batch == (1, 2, 3)
    assert atomic.sha256_of(target / engine.file) == engine.sha256
    assert engine.layer_types["FLOAT"] > 0
    assert "HALF" not in engine.layer_types
    (profile,) = manifest.profiles
    assert (profile.name, profile.proof) == ("raw", None)
    assert "the profiles raw are unverified, too" in result.remarks
    assert manifest.state == "unverified"
    assert "unverified" in (target / "report.md").read_text(encoding="utf-8")


def test_verify_again_at_other_batch_sizes(copy: Path, toy: Toy) -> None:
    report = verify_bundle(copy, toy.run, Proof(proof_dataset(toy.data), batch_sizes=(3,)))
    assert report.passed
    verification = read_manifest(copy).verification
    assert verification is not None
    assert [proof.batch for proof in verification.artefacts] == [1, 3]


def test_other_weights_fail_the_proof(copy: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    """Even with every digest forged, the measurement finds a graph of another head."""
    write_run(tmp_path / "run", seed=1)
    manifest = atomic.read_json(copy / "bundle.json")
    manifest["heads"][0]["hashes"]["checkpoint"] = atomic.sha256_of(tmp_path / "run" / "best.safetensors")
    atomic.write_json(copy / "bundle.json", manifest)
    done = detheads("verify", copy, "--run", tmp_path / "run", "--data", toy.data, "--batch-sizes", "1", "--json")
    assert done.code == 1
    report = json.loads(done.out)
    assert report["passed"] is False
    assert abs(report["map_drop"]) > 0.001
    assert any("mAP differs by" in reason for reason in report["reasons"])
    assert read_manifest(copy).state == "failed verification"
    assert ": FAILED\n" in (copy / "report.md").read_text(encoding="utf-8")


def test_bundle_of_another_checkpoint_is_refused(copy: Path, toy: Toy, tmp_path: Path) -> None:
    write_run(tmp_path / "run", seed=1)
    with pytest.raises(UserError, match="was not made from the best checkpoint"):
        verify_bundle(copy, tmp_path / "run", Proof(proof_dataset(toy.data)))


def test_failed_proof_leaves_a_report_and_no_bundle(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detheads
) -> None:
    from detheads.export import pipeline

    def sabotage(trained, *rest):  # as if the exporter had lost the trained weights
        import torch

        master = trace(trained, *rest)
        with torch.no_grad():
            trained["head"].head.classes.weight.mul_(-1)
        return master

    trace = pipeline.trace_master
    monkeypatch.setattr(pipeline, "trace_master", sabotage)
    monkeypatch.setattr(pipeline, "default_thresholds", lambda trained: THRESHOLDS)  # a shorter graph
    target = tmp_path / "bad.detheads"
    done = detheads("export", toy.run, "-o", target, "--data", toy.data, "--onnx-only", "--batch-sizes", "1", "--json")
    assert done.code == 1
    answer = json.loads(done.out)
    assert answer["bundle"] is None
    assert not answer["passed"]
    assert not target.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.rejected"]
    assert ": FAILED\n" in (tmp_path / "bad.rejected" / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "bad.rejected" / "report.html").read_text(encoding="utf-8")
    assert "<title>Verification of bad: FAILED</title>" in page and "data:image/jpeg" in page


def test_detecting_nothing_proves_nothing(toy: Toy, tmp_path: Path) -> None:
    silent = THRESHOLDS.model_copy(update={"score": 1.0, "max_detections": 2})
    result = export_run(
        toy.run, tmp_path / "a.detheads", proof=Proof(proof_dataset(toy.data)), thresholds=silent, tensorrt=False
    )
    assert not result.passed
    assert result.report is not None
    assert any("detects nothing" in reason for reason in result.report.reasons)


def test_constants_of_suppression_are_those_that_were_asked_for_on_both_sides(
    toy: Toy, tmp_path: Path, detheads
) -> None:
    """And a name that is not UTF-8 harms nothing."""
    target = tmp_path / os.fsdecode(b"caf\xe9.detheads")
    done = detheads(
        "export", toy.run, "-o", target, "--data", toy.data, "--onnx-only", "--batch-sizes", "1", "--json",
        "--score", "0.45", "--iou", "0.3", "--max-detections", "4", "--candidates", "50",
    )  # fmt: skip
    assert done.code == 0, done.err
    chosen = Thresholds(score=0.45, nms_iou=0.3, max_detections=4, candidates=50)
    manifest = read_manifest(target)
    assert manifest.thresholds == chosen
    assert manifest.name == r"caf\udce9"
    assert json.loads(done.out)["thresholds"] == chosen.model_dump()
    dataset, live = proof_dataset(toy.data), live_detector(toy.run, chosen)
    found = Detector(target).detect([load_image(image.path) for image in dataset.images])
    for image, one in zip(dataset.images, found, strict=True):
        expected = live.detect(load_image(image.path))
        assert 0 < len(one.scores) == len(expected.scores) <= 4
        np.testing.assert_allclose(one.boxes, expected.boxes, atol=0.01)
        assert one.scores.min() > 0.45
    assert "full table of 4 detections" in done.err


@pytest.mark.parametrize(
    ("asked", "range"),
    [
        ({"score": 1.5}, "between 0 and 1"),
        ({"iou": -0.1}, "between 0 and 1"),
        ({"max_detections": 0}, "from 1 to 1000"),
        ({"max_detections": 1001}, "from 1 to 1000"),
        ({"candidates": 0}, "from 1 to 3840"),
        ({"candidates": 3841}, "from 1 to 3840"),
    ],
)
def test_constants_beyond_their_range_are_refused(asked: dict[str, Any], range: str) -> None:
    with pytest.raises(UserError, match=range):
        Suppression(**asked)


@pytest.mark.parametrize("name", ["missing/model", "x" * 240, "taken.rejected"])
def test_a_target_that_cannot_be_written_is_refused_before_the_work(
    name: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detheads
) -> None:
    monkeypatch.setattr("detheads.export.pipeline.load_trained", lambda *_, **__: pytest.fail("work was begun"))
    (tmp_path / "missing").write_text("a file where a folder is needed")
    (tmp_path / "taken.rejected").write_text("a file where the report of a failed proof would go")
    target = tmp_path / f"{name.removesuffix('.rejected')}.detheads"
    done = detheads("export", toy.run, "-o", target, "--no-verify", "--onnx-only")
    assert done.code == 1
    assert done.err.count("error: ") == 1
    assert not list(tmp_path.glob("**/*.partial"))


def test_other_classes_are_refused_before_the_work_by_name(
    data: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detheads.export.pipeline.load_trained", lambda *_, **__: pytest.fail("work was begun"))
    document = atomic.read_json(data.annotations)
    document["categories"][0]["name"] = "cats"
    atomic.write_json(data.annotations, document)
    with pytest.raises(UserError, match=r"only .*run has cat; only the dataset has cats \(Did you mean 'cats'\?\)"):
        export_run(data.run, tmp_path / "a.detheads", proof=Proof(proof_dataset(data.data)), tensorrt=False)
    assert not list(tmp_path.glob("*.detheads"))


def test_a_bundle_that_cannot_be_written_gives_its_verdict_and_a_remark(
    copy: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch, detheads
) -> None:
    before = {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(copy))

    monkeypatch.setattr("detheads.export.pipeline.store_proof", refuse)
    done = detheads("verify", copy, "--run", toy.run, "--data", toy.data, "--batch-sizes", "1")
    assert done.code == 0
    assert "proof holds" in done.out
    assert f"the verdict was not written into {copy} (Read-only file system)" in done.err
    assert {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_pictures_that_cannot_be_used_are_left_out_on_request(copy: Path, data: Toy, detheads) -> None:
    (data.images / "bild 3.png").write_bytes(b"half")
    done = detheads("verify", copy, "--run", data.run, "--data", data.data, "--batch-sizes", "1", "--skip-bad")
    assert done.code == 0, done.err
    assert "left out 1 that cannot be used:" in done.err
    assert "bild 3.png" in done.err
    verification = read_manifest(copy).verification
    assert verification is not None
    assert verification.images == len(SIZES) - 1


def test_a_proof_on_training_pictures_is_called_that(copy: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = read_manifest(copy).best_scores
    dataset = proof_dataset(toy.data)
    trained = load_trained(toy.run)
    checkpoint = replace(trained.checkpoint, dataset_sha256=dataset_sha256(dataset))
    monkeypatch.setattr(
        "detheads.export.pipeline.load_trained", lambda *_, **__: replace(trained, checkpoint=checkpoint)
    )
    report = verify_bundle(copy, toy.run, Proof(dataset, batch_sizes=(1,)))
    assert report.verdict == f"proof holds; {NOT_ENOUGH}; these are training pictures"
    manifest = read_manifest(copy)
    assert manifest.verification is not None
    assert manifest.verification.training_pictures == len(SIZES)
    assert manifest.best_scores == kept  # those of pictures that were not known are worth more
    assert "- Note: these are training pictures" in (copy / "report.md").read_text(encoding="utf-8")


def test_training_pictures_in_another_dataset_are_counted(toy: Toy) -> None:
    checkpoint, dataset = load_trained(toy.run).checkpoint, proof_dataset(toy.data)
    assert training_pictures(checkpoint, dataset, dataset) is None  # this run knows no pictures
    digests = [atomic.sha256_of(image.path) for image in dataset.images]
    for count in (0, 1, len(digests)):
        seen = replace(checkpoint, pictures=written([*digests[:count], "ab" * 32]))
        assert training_pictures(seen, dataset, dataset) == count


@pytest.mark.parametrize("target", ["model.onnx", "bundle.json"])
def test_changed_bundle_is_refused(copy: Path, toy: Toy, detheads, target: str) -> None:
    if target == "model.onnx":
        content = bytearray((copy / target).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / target).write_bytes(content)
    else:
        text = (copy / target).read_text(encoding="utf-8").replace('"cat"', '"cow"')
        (copy / target).write_text(text, encoding="utf-8")
    done = detheads("deploy", "run", copy, toy.images, "-o", copy.parent / "out")
    assert done.code == 1
    assert done.err.count("error:") == 1
    assert "SHA-256 differs" in done.err or "disagree about classes" in done.err
    assert not (copy.parent / "out").exists()
    if target == "model.onnx":
        done = detheads("verify", copy, "--run", toy.run, "--data", toy.data)
        assert done.code == 1
        assert "SHA-256 differs" in done.err


@pytest.mark.parametrize("content", [b"engine", b"changed", None], ids=["its own", "changed", "missing"])
def test_a_changed_engine_is_refused(copy: Path, toy: Toy, content: bytes | None) -> None:
    manifest = atomic.read_json(copy / "bundle.json")
    engine = EngineEntry(
        file="engines/a.engine",
        sha256=hashlib.sha256(b"engine").hexdigest(),
        bytes=6,
        builder="by hand",
        batch=(1, 1, 1),
        compute_capabilities=[],
        build_seconds=0,
        layer_types={},
        status="built, not executed",
    )
    atomic.write_json(copy / "bundle.json", manifest | {"engines": [engine.model_dump(mode="json")]})
    if content is not None:
        atomic.write_bytes(copy / engine.file, content)
    proof = Proof(proof_dataset(toy.data), batch_sizes=(1,))
    if content == b"engine":
        assert verify_bundle(copy, toy.run, proof).passed
    else:
        with pytest.raises(UserError, match="SHA-256 differs" if content else "is missing; copy the whole"):
            verify_bundle(copy, toy.run, proof)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", ""])
def test_graph_outside_the_bundle_is_not_opened(copy: Path, toy: Toy, name: str) -> None:
    shutil.copy(copy / "model.onnx", copy.parent / "model.onnx")
    manifest = atomic.read_json(copy / "bundle.json")
    manifest["onnx"]["file"] = name
    atomic.write_json(copy / "bundle.json", manifest)
    with pytest.raises(UserError, match="leaves its folder"):
        verify_bundle(copy, toy.run, Proof(proof_dataset(toy.data)))


def test_missing_and_truncated_images_stop_the_proof(copy: Path, data: Toy) -> None:
    picture = next(iter(sorted(data.images.iterdir())))
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"bild 0\.png cannot be decoded"):
        verify_bundle(copy, data.run, Proof(proof_dataset(data.data)))
    picture.unlink()
    with pytest.raises(UserError, match=r"bild 0\.png"):
        verify_bundle(copy, data.run, Proof(proof_dataset(data.data)))
    assert read_manifest(copy).state == "verified"


def test_image_of_another_size_than_annotated_stops_the_proof(copy: Path, data: Toy) -> None:
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(data.images / "bild 0.png")
    with pytest.raises(UserError, match=r"bild 0\.png"):
        verify_bundle(copy, data.run, Proof(proof_dataset(data.data)))


def test_dataset_of_other_classes_is_refused(copy: Path, data: Toy) -> None:
    document = atomic.read_json(data.annotations)
    document["categories"][0]["name"] = "cow"
    atomic.write_json(data.annotations, document)
    with pytest.raises(UserError, match="verify with a dataset of the classes it was trained on"):
        verify_bundle(copy, data.run, Proof(proof_dataset(data.data)))


def test_dataset_without_an_object_that_counts_is_refused(copy: Path, data: Toy) -> None:
    document = atomic.read_json(data.annotations)
    crowds = [entry | {"iscrowd": 1} for entry in document["annotations"]]
    atomic.write_json(data.annotations, document | {"annotations": crowds})
    with pytest.raises(UserError, match="nothing proven"):
        verify_bundle(copy, data.run, Proof(proof_dataset(data.data)))


def test_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "mine.detheads"
    target.mkdir()
    (target / "letter.txt").write_text("dear")
    for force in (False, True):
        with pytest.raises(UserError, match="not a bundle and was left alone"):
            require_target(target, force)
    assert (target / "letter.txt").read_text() == "dear"


def test_existing_bundle_needs_force_and_is_replaced_whole(copy: Path, toy: Toy) -> None:
    (copy / "old.txt").write_text("old")
    with pytest.raises(UserError, match="--force"):
        require_target(copy, force=False)
    result = export_run(toy.run, copy, proof=None, thresholds=SHORT, tensorrt=False, force=True)
    assert result.bundle == copy
    kept = ["README.md", "bundle.json", "model.onnx", "probes", "report.md"]
    assert sorted(path.name for path in copy.iterdir()) == kept
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_name_must_end_in_detheads(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.detheads"):
        require_target(tmp_path / "model", force=False)


def test_a_killed_export_leaves_no_bundle_and_never_hinders_the_next(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "killed.detheads"
    command = [sys.executable, "-c", "from detheads.cli.main import main; main()"]
    command += ["export", str(toy.run), "-o", str(target), "--no-verify", "--onnx-only"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".killed.detheads.partial/*")):
        assert process.poll() is None, "the export ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr("detheads.foundation.claims.PATIENCE", 0.0)
    with pytest.raises(UserError, match="another process is writing"):
        export_run(toy.run, target, proof=None, tensorrt=False)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".killed.detheads.partial"]
    monkeypatch.setattr(os, "getpid", lambda: process.pid)  # as if the system had given the number out again
    assert export_run(toy.run, target, proof=None, thresholds=SHORT, tensorrt=False).bundle == target
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_proof_or_its_absence_must_be_explicit(toy: Toy, tmp_path: Path, detheads) -> None:
    for extra in ([], ["--data", toy.data, "--no-verify"]):
        done = detheads("export", toy.run, "-o", tmp_path / "a.detheads", *extra)
        assert done.code == 1
        assert "--no-verify" in done.err
    assert not list(tmp_path.iterdir())


def test_unusable_run_and_weights_are_one_sentence(toy: Toy, tmp_path: Path, detheads) -> None:
    done = detheads("export", tmp_path / "no run", "-o", tmp_path / "a.detheads", "--no-verify", "--onnx-only")
    assert done.code == 1
    assert "does not exist" in done.err
    done = detheads(
        "export", toy.run, "-o", tmp_path / "a.detheads", "--no-verify", "--onnx-only", "--weights", toy.annotations
    )
    assert done.code == 1
    assert "random backbone weights" in done.err
    assert not list(tmp_path.iterdir())
