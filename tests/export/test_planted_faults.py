"""Planted faults: the gate catches each, and the explanation names its stage and cause. Sound artefacts go free."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from detheads.deploy import Detector
from detheads.export import verify
from detheads.export.explain import Explanation, Seen, Suspect, explain
from detheads.export.explain.marks import dense_part
from detheads.export.explain.proof import prove
from detheads.export.live import LiveDetector
from detheads.export.precision import executable
from detheads.export.precision.calibration import Calibration, Picture
from detheads.export.precision.convert import convert
from detheads.export.precision.plan import Plan
from detheads.export.proof import Proof, proof_dataset
from detheads.export.report import VerificationReport
from detheads.export.source import load_trained
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.images import load_image
from detheads.foundation.manifest import Precision
from tests.export import planted
from tests.export.toy import SIDE, THRESHOLDS, Toy

Change = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True)
class World:
    """The toy's proof with its PyTorch side measured once, and its graph up to suppression."""

    bundle: Path
    reference: verify.Reference
    dense: onnx.ModelProto
    calibration: Calibration
    folder: Path

    @property
    def live(self) -> LiveDetector:
        return self.reference.live

    def changed(self, change: Change | None = None) -> onnx.ModelProto:
        """A copy of the graph with a fault."""
        dense = onnx.ModelProto()
        dense.CopyFrom(self.dense)
        if change is not None:
            change(dense)
        return dense

    def int8(self, dense: onnx.ModelProto) -> onnx.ModelProto:
        return convert(dense, Plan("int8", self.calibration, fallback=False, engine=True)).model

    def bundled(self, dense: onnx.ModelProto, precision: Precision = "fp32", finish: Change | None = None) -> Path:
        """The bundle with another dense graph in it."""
        bundle = self.folder / "planted.detheads"
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(self.bundle, bundle)
        model = planted.completed(dense, bundle)
        if finish is not None:
            finish(model)
        planted.rewrite(bundle, model, precision)
        return bundle


@pytest.fixture(scope="module")
def world(bundle: Path, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> World:
    dataset = proof_dataset(toy.data)
    reference = verify.measure(load_trained(toy.run), THRESHOLDS, Proof(dataset, batch_sizes=(1,)))
    arrays = [letterbox_image(load_image(image.path), SIDE, SIDE)[0].transpose(2, 0, 1) for image in dataset.images]
    pictures = tuple(Picture(str(number), "0" * 64, array) for number, array in enumerate(arrays))
    return World(
        bundle,
        reference,
        dense_part(onnx.load_model(str(bundle / "model.onnx"))),
        Calibration("toy", None, pictures, SIDE, SIDE),
        tmp_path_factory.mktemp("planted"),
    )


def proven(world: World, bundle: Path, **asked: Any) -> VerificationReport:
    return prove(bundle, replace(world.reference, proof=replace(world.reference.proof, **asked)))


@dataclass(frozen=True)
class Fault:
    """What is planted, and what is to be said of it.

    Attributes:
        make: the faulty bundle.
        detector: the runtime that runs it.
        words: that the likely cause contains.
    """

    name: str
    kind: str
    stage: str
    words: tuple[str, ...]
    make: Callable[[World], Path] = lambda world: world.bundle
    detector: type[Detector] = Detector


def _strides(world: World) -> Change:
    return planted.shifted_boxes(np.asarray(world.live.head.strides))


FAULTS = (
    Fault(
        "attention scores that overflow FP16",
        "overflow",
        "backbone",
        (f"{planted.ATTENTION}, MatMul overflows FP16", "65,504"),
        lambda world: world.bundled(planted.halved(world.changed(planted.overflowing_attention)), "fp16"),
    ),
    Fault(
        "one layer whose INT8 is ruinous",
        "quantised layer",
        "towers",
        (planted.RUINED, "with this layer alone in FP32"),
        lambda world: world.bundled(world.int8(world.changed(planted.ruinous_layer)), "int8"),
    ),
    Fault(
        "normalisation left out",
        "normalisation",
        "normalisation",
        ("is left out: the backbone is given 0..255",),
        lambda world: world.bundled(world.changed(planted.without_normalisation)),
    ),
    Fault("channels swapped", "channel order", "input", ("BGR",), detector=planted.preparing(planted.swapped)),
    Fault(
        "a letterbox off by one pixel",
        "letterbox",
        "input",
        ("1 pixel right",),
        detector=planted.preparing(planted.moved),
    ),
    Fault(
        "nearest instead of bilinear resize",
        "resize",
        "input",
        ("nearest neighbour where bilinear",),
        detector=planted.preparing(planted.nearest),
    ),
    Fault(
        "black instead of grey padding",
        "padding",
        "input",
        ("black where grey 114",),
        detector=planted.preparing(planted.black),
    ),
    Fault(
        "suppression at another IoU",
        "suppression",
        "suppression",
        ("an IoU of 0.7", "where 0.5 is meant"),
        lambda world: world.bundled(world.changed(), finish=lambda model: planted.other_iou(model, 0.7)),
    ),
    Fault(
        "one class's weights zeroed",
        "class weights",
        "predictions",
        ("class dog", "head.classes.weight has zero in 1 of its output channels"),
        lambda world: world.bundled(world.changed(planted.zeroed_class)),
    ),
    Fault(
        "boxes off by half a stride",
        "decode",
        "decode",
        ("half a stride: (+0.50, +0.50)",),
        lambda world: world.bundled(world.changed(_strides(world))),
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_and_its_stage_and_cause_are_named(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executable, "Detector", fault.detector)
    report = proven(world, fault.make(world))
    assert not report.passed
    found = report.explanation
    assert isinstance(found, Explanation)
    assert found.departure is not None
    assert found.departure.stage == fault.stage
    assert found.cause is not None
    assert (found.cause.kind, found.cause.stage) == (fault.kind, fault.stage)
    assert all(words in found.cause.sentence for words in fault.words), found.cause.sentence
    assert len(found.causes) == 1


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.stage == "input"], ids=lambda fault: fault.name)
def test_preprocessing_is_recognised_by_detections_alone(world: World, fault: Fault) -> None:
    artefact = fault.detector(world.bundle)
    images = [load_image(record.path) for record in world.reference.dataset.images]
    pictures = [
        Seen(str(number), image, live, artefact.detect([image])[0])
        for number, (image, live) in enumerate(zip(images, world.reference.found, strict=True))
    ]
    found = explain(Suspect(artefact.detect), world.live, pictures, world.reference.dataset.class_names)
    assert found.cause is not None
    assert (found.cause.kind, found.cause.stage) == (fault.kind, "input")
    assert all(words in found.cause.sentence for words in fault.words)


SOUND: dict[Precision, Callable[[World, onnx.ModelProto], onnx.ModelProto]] = {
    "fp32": lambda world, dense: dense,
    "fp16": lambda world, dense: planted.halved(dense),
    "int8": lambda world, dense: world.int8(dense),
}


@pytest.mark.parametrize("precision", SOUND)
def test_a_sound_artefact_is_not_accused(world: World, precision: Precision) -> None:
    loose = {"max_map_drop": 1.0, "min_matched": 0.5}  # other limits are multiples of it
    report = proven(world, world.bundled(SOUND[precision](world, world.changed()), precision), explain=True, **loose)
    assert report.passed, report.reasons
    found = report.explanation
    assert isinstance(found, Explanation)
    assert found.departure is None
    assert found.causes == []
    assert found.told() == ["no departure: every tensor, from the picture to the final boxes, differs by rounding only"]
    assert [stage["stage"] for stage in found.trail] == [
        "normalisation", "backbone", "features", "levels", "towers", "predictions", "decode"
    ]  # fmt: skip
