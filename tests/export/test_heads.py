"""Several heads behind one backbone: one graph, outputs, proof and runtime by name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from detheads.deploy import Detections, Detector
from detheads.deploy.detector import all_classes
from detheads.deploy.serving.settings import Settings
from detheads.export.names import named_runs
from detheads.export.pipeline import ExportResult, export_runs, verify_bundle
from detheads.export.proof import Proof, proof_dataset
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.training.checkpoint import load_checkpoint, save_checkpoint
from tests.deploy.serving.conftest import running, triton_http
from tests.export.toy import SIZES, THRESHOLDS, Toy, live_detector, write_dataset, write_run

__all__ = ["triton_http"]

FIRST = "training"  # what torch itself calls something else


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A head with other weights, and the pictures with the boxes that it finds."""
    folder = tmp_path_factory.mktemp("second")
    toy = Toy(folder / "second", folder / "pictures")
    write_run(toy.run, seed=5)
    write_dataset(toy, seed=0)
    return toy


@pytest.fixture(scope="module")
def both(toy: Toy, second: Toy, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    target = tmp_path_factory.mktemp("both") / "both.detheads"
    proofs = {name: Proof(proof_dataset(one.data)) for name, one in ((FIRST, toy), ("second", second))}
    runs = {FIRST: toy.run, "second": second.run}
    result = export_runs(runs, target, proofs=proofs, thresholds=THRESHOLDS, tensorrt=False)
    assert result.bundle == target, result.to_dict()
    return result


def bundle_of(result: ExportResult) -> Path:
    assert result.bundle is not None
    return result.bundle


def test_the_backbone_runs_once_and_each_head_has_its_outputs(both: ExportResult, bundle: Path) -> None:
    graph = onnx.load(str(bundle_of(both) / "model.onnx")).graph
    alone = onnx.load(str(bundle / "model.onnx")).graph
    of_backbone = [node.name for node in graph.node if node.name.startswith("backbone")]
    assert of_backbone == [node.name for node in alone.node if node.name.startswith("backbone")]
    assert [output.name for output in graph.output] == [
        f"{head}.{output}" for head in (FIRST, "second") for output in ("boxes", "scores", "labels")
    ]
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_each_head_finds_what_it_finds_alone(both: ExportResult, toy: Toy, second: Toy) -> None:
    picture = load_image(toy.images / "bild 5.png")
    for name, one in ((FIRST, toy), ("second", second)):
        found = Detector(bundle_of(both), head=name)(picture)
        expected = live_detector(one.run).detect(picture)
        assert len(found) == len(expected.scores) > 5
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
        np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("head", [None, "second"])
def test_auto_holds_each_head_against_its_own_reference(both: ExportResult, head: str | None) -> None:
    detector = Detector.load(bundle_of(both), threads=1, head=head)
    assert detector.choice.endswith("judged by 4 probes")
    assert len(detector.heads) == (2 if head is None else 1)


def test_a_server_gives_the_outputs_of_each_head_by_name(both: ExportResult, triton_http: Any) -> None:
    with running({"both": bundle_of(both)}, Settings(threads=1)) as (client, models):
        images = np.random.default_rng(0).integers(0, 256, (1, 3, 160, 160), dtype=np.uint8)
        expected = models.get("both").detector.session.run(images)
        with triton_http.InferenceServerClient(f"127.0.0.1:{client.base_url.port}") as triton:
            tensor = triton_http.InferInput("images", [1, 3, 160, 160], "UINT8").set_data_from_numpy(images)
            found = triton.infer("both", [tensor])
            shapes = {entry["name"]: entry["shape"] for entry in triton.get_model_metadata("both")["outputs"]}
    for head, arrays in expected.items():
        for output, array in zip(("boxes", "scores", "labels"), arrays, strict=True):
            np.testing.assert_array_equal(found.as_numpy(f"{head}.{output}"), array)
            assert shapes[f"{head}.{output}"] == [-1, *array.shape[1:]]


def test_without_a_name_the_detections_of_all_heads_come_best_first(both: ExportResult, toy: Toy) -> None:
    picture = load_image(toy.images / "bild 5.png")
    detector = Detector(bundle_of(both))
    found = detector(picture)
    singles: list[Detections] = [Detector(bundle_of(both), head=head)(picture) for head in (FIRST, "second")]
    assert len(found) == sum(map(len, singles))
    assert (np.diff(found.scores) <= 0).all()
    for number, single in enumerate(singles):
        own = found.where(found.labels // 3 == number)  # three classes each
        np.testing.assert_array_equal(own.boxes, single.boxes)
        assert own.names == single.names
    assert detector.class_names == ("cat", "dog", "größte Eule") * 2
    assert [entry.id for entry in detector.classes] == [3, 17, 90] * 2  # the same classes, so the same ids


def test_classes_that_share_an_id_by_chance_are_numbered_anew(both: ExportResult) -> None:
    first, other = both.manifest.heads
    clash = other.model_copy(update={"classes": [entry.model_copy(update={"name": "x"}) for entry in other.classes]})
    assert [entry.id for entry in all_classes([first, clash])] == [1, 2, 3, 4, 5, 6]


def test_each_head_has_a_proof_and_the_bundle_is_as_proven_as_its_least(both: ExportResult, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_of(both), tmp_path / "copy.detheads"))
    manifest = read_manifest(copy)
    assert [head.verification.passed for head in manifest.heads if head.verification] == [True, True]
    assert manifest.state == "verified"
    for head in manifest.heads:
        report = json.loads((copy / "reports" / head.name / "report.json").read_text(encoding="utf-8"))
        assert report["passed"]
        assert report["head"] == head.name
        assert report["artefacts"][0]["versus_live"]["images"] == len(SIZES)
        assert f"(reports/{head.name}/report.md)" in (copy / "report.md").read_text(encoding="utf-8")
    write_manifest(copy, manifest.with_head(manifest.heads[1].model_copy(update={"verification": None})))
    assert read_manifest(copy).state == "unverified"


def test_one_head_can_be_proven_again_by_its_run(both: ExportResult, second: Toy, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_of(both), tmp_path / "copy.detheads"))
    report = verify_bundle(copy, second.run, Proof(proof_dataset(second.data), batch_sizes=(1,)))
    assert report.passed
    assert report.head == "second"
    first, other = read_manifest(copy).heads
    assert first.verification is not None
    assert len(first.verification.artefacts) == 3
    assert other.verification is not None
    assert len(other.verification.artefacts) == 1


def test_the_command_line_takes_several_runs_and_runs_their_bundle(
    both: ExportResult, toy: Toy, second: Toy, tmp_path: Path, detheads: Callable
) -> None:
    target = tmp_path / "a.detheads"
    done = detheads("export", toy.run, second.run, "-o", target, "--no-verify", "--onnx-only", "--json")
    assert done.code == 0, done.err
    assert list(json.loads(done.out)["heads"]) == ["run", "second"]
    done = detheads("deploy", "run", target, toy.images, "-o", tmp_path / "out", "--no-pictures")
    assert done.code == 0, done.err
    done = detheads("deploy", "info", bundle_of(both))
    assert "second proof: holds: mAP" in done.out
    done = detheads("deploy", "run", bundle_of(both), toy.images, "-o", tmp_path / "b", "--head", "secnd")
    assert done.code == 1
    assert "has no head 'secnd', but training, second. Did you mean 'second'?" in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["a/run", "b/run"],), "two of the runs are called 'run'; give names with --head-name"),
        ((["a", "b"], ["x"]), "1 of --head-name for 2 runs"),
        ((["a", "backbone"],), "'backbone' cannot be the name of a head"),
        ((["a", "b c"],), "'b c' cannot be the name of a head"),
    ],
)
def test_names_that_cannot_be_are_refused(arguments: tuple[list[str], ...], sentence: str) -> None:
    runs, *names = arguments
    with pytest.raises(UserError, match=sentence):
        named_runs([Path(run) for run in runs], *names)


def test_heads_for_different_features_are_refused(toy: Toy, tmp_path: Path, detheads: Callable) -> None:
    other = tmp_path / "other"
    other.mkdir()
    checkpoint = load_checkpoint(toy.run, "best")
    larger = replace(checkpoint.feature_spec, height=192, width=192)
    save_checkpoint(other / "best.safetensors", replace(checkpoint, feature_spec=larger))
    done = detheads("export", toy.run, other, "-o", tmp_path / "a.detheads", "--no-verify", "--onnx-only")
    assert done.code == 1
    assert "cannot share a graph: the input size of the one is 160x160, of the other 192x192" in done.err
    assert not (tmp_path / "a.detheads").exists()
