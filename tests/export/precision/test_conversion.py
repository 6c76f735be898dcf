"""Precision from the command line to the bundle, and a planted fault on the way, on the toy."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from detheads.deploy import Detector
from detheads.export import pipeline
from detheads.export.bundle_writer import Master, trace_master
from detheads.export.conversion import Conversion
from detheads.export.pipeline import export_run
from detheads.export.proof import Proof, proof_dataset
from detheads.export.source import load_trained
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.images import load_image
from detheads.foundation.manifest import ONLY_HEAD, Precision
from detheads.training.checkpoint import load_checkpoint, save_checkpoint
from tests.export.toy import THRESHOLDS, Toy

RUINED = "head.classes"
LIMITS = {"max_map_drop": 0.06, "min_matched": 0.3}
"""Seven pictures and random weights: one box more or less weighs much."""


@dataclass(frozen=True)
class World:
    """A toy whose run has a block that INT8 ruins, its master, and pictures to calibrate on."""

    toy: Toy
    master: Master
    pictures: Path

    @property
    def proof(self) -> Proof:
        return Proof(proof_dataset(self.toy.data), batch_sizes=(1,), pictures=0, **LIMITS)

    def conversion(self, **options) -> Conversion:
        return Conversion("int8", str(self.pictures), 8, **options)


@pytest.fixture(scope="module")
def world(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A channel of a tower is 10,000 times as large, and read with weights as much smaller: FP32 computes the same."""
    folder = tmp_path_factory.mktemp("ruined")
    run = folder / "run"
    run.mkdir()
    checkpoint = load_checkpoint(toy.run, "best")
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    for name in ("class_tower.0.1.weight", "class_tower.0.1.bias"):
        tensors[name][0] *= 1e4
    tensors["classes.weight"][:, 0] *= 1e-4
    save_checkpoint(run / "best.safetensors", replace(checkpoint, tensors=tensors))
    pictures = folder / "calibration"
    pictures.mkdir()
    random = np.random.default_rng(5)
    for number in range(8):
        small = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        small.resize((160 + 10 * number, 200), Image.Resampling.BICUBIC).save(pictures / f"{number}.png")
    master = trace_master({ONLY_HEAD: load_trained(run)}, {ONLY_HEAD: THRESHOLDS})
    return World(Toy(run, toy.data), master, pictures)


@pytest.fixture
def traced_once(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pipeline, "trace_master", lambda *_: world.master)
    yield


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "mixed"])
def test_a_lower_precision_goes_all_the_way_to_a_proven_bundle(
    precision: Precision, world: World, tmp_path: Path
) -> None:
    """With its probes, also where this machine's runtime cannot run the graph itself."""
    target = tmp_path / "low.detheads"
    conversion = Conversion(precision, str(world.pictures), 8)
    result = export_run(
        world.toy.run, target, proof=world.proof, thresholds=THRESHOLDS, tensorrt=False, conversion=conversion
    )
    assert result.report is not None
    assert result.passed, result.report.reasons
    assert result.manifest.precision == precision
    assert result.manifest.calibration is not None
    assert "each result rounded to" in result.report.artefacts[-1].runtime
    assert 0.5 < atomic.read_json(target / "probes" / "probes.json")["measured"] <= 1


@pytest.mark.usefixtures("traced_once")
def test_the_block_that_int8_ruins_returns_to_fp32_and_the_bundle_ships(world: World, tmp_path: Path) -> None:
    target = tmp_path / "int8.detheads"
    result = export_run(
        world.toy.run, target, proof=world.proof, thresholds=THRESHOLDS, tensorrt=False, conversion=world.conversion()
    )
    assert result.passed
    manifest = read_manifest(target)
    assert (manifest.precision, manifest.state) == ("int8", "verified")
    assert manifest.calibration is not None
    assert manifest.calibration.images == {f"{n}.png": atomic.sha256_of(world.pictures / f"{n}.png") for n in range(8)}
    told = atomic.read_json(target / "precision.json")
    assert told["returned"][0] == RUINED
    assert told["int8_layers"] < told["layers"]
    steps = [(step["returned"], step["passed"]) for step in told["curve"]]
    assert steps[0] == (0, False)
    assert (len(told["returned"]), True) in steps
    assert atomic.read_json(target / "report.json")["conversion"]["curve"] == told["curve"]
    kinds = {t.name: t.data_type for t in onnx.load_model(target / "model.onnx").graph.initializer}
    (ruined,) = (kind for name, kind in kinds.items() if name.endswith("classes.weight"))
    assert ruined == onnx.TensorProto.FLOAT
    assert sum(kind == onnx.TensorProto.INT8 for kind in kinds.values()) >= told["int8_layers"]
    assert any(f"back in FP32: {RUINED}" in remark for remark in result.remarks)
    images = [load_image(image.path) for image in world.proof.dataset.images]
    assert sum(len(found.scores) for found in Detector(target).detect(images)) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.detheads"]


@pytest.mark.usefixtures("traced_once")
def test_without_fallback_the_ruined_graph_does_not_ship(world: World, tmp_path: Path) -> None:
    result = export_run(
        world.toy.run, tmp_path / "int8.detheads", proof=world.proof, thresholds=THRESHOLDS, tensorrt=False,
        conversion=world.conversion(fallback=False),
    )  # fmt: skip
    assert not result.passed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.rejected"]
    (step,) = atomic.read_json(tmp_path / "int8.rejected" / "report.json")["conversion"]["curve"]
    assert (step["share"], step["passed"]) == (1, False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "has no training split to calibrate on"),
        (["--calibration", "{data}:val"], "are also in the proof's split"),
        (["--calibration", "{data}/val"], "a proof on them would flatter"),
        (["--calibration", "{empty}"], "has no pictures to calibrate on"),
        (["--calibration", "{array}"], "pictures of 32x32 pixels and the model takes 160x160"),
        (["--calibration", "{empty}/nothing"], "does not exist"),
        (["--range-method", "mse", "--calibration", "{images}"], "minmax, percentile, entropy, not by 'mse'"),
        (["--precision", "int4"], "--precision is fp32, fp16, bf16, int8, mixed, not 'int4'"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused_before_the_work(
    options: list[str], sentence: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detheads
) -> None:
    monkeypatch.setattr("detheads.export.pipeline.load_several", lambda *_, **__: pytest.fail("work was begun"))
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "small.npy", np.zeros((2, 3, 32, 32), np.uint8))
    places = {
        "data": world.toy.data,
        "empty": tmp_path / "empty",
        "array": tmp_path / "small.npy",
        "images": world.pictures,
    }
    done = detheads(
        "export", world.toy.run, "-o", tmp_path / "a.detheads", "--data", world.toy.data, "--onnx-only",
        "--precision", "int8", *(option.format(**places) for option in options),
    )  # fmt: skip
    assert done.code == 1
    assert sentence in done.err.replace("\n", " ")
    assert "Traceback" not in done.err
    assert not (tmp_path / "a.detheads").exists()
