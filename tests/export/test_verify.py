"""The proof notices artefacts that err on purpose, each in one way; the judgement of each measurement by itself."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detheads.deploy import Detections, Detector
from detheads.evaluation.coco import NAMES, Statistics
from detheads.evaluation.compare import Interval
from detheads.export import verify
from detheads.export.criteria import Criterion
from detheads.export.judgement import cache_remarks, class_remarks, reasons, shortcomings
from detheads.export.limits import Limits
from detheads.export.live import LiveDetector
from detheads.export.matching import Comparison, TensorDifference
from detheads.export.precision import executable
from detheads.export.proof import Proof, proof_dataset
from detheads.export.report import ArtefactResult, VerificationReport
from detheads.export.report_document import report_markdown
from detheads.export.sides import compare_tensors, run_artefact
from detheads.export.source import load_trained
from tests.export.toy import SIZES, THRESHOLDS, Toy, live_detector

NOTHING = Detections(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int32))


class LosesTheBest(Detector):
    """The best half of an image's detections is lost."""

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        found = super().detect(images)
        return [one.where(np.arange(len(one)) >= len(one) // 2) for one in found]


class LosesTheBestInBatches(LosesTheBest):
    """Alone an image is detected well."""

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        return Detector.detect(self, images) if len(images) == 1 else super().detect(images)


class BlindToOneClass(Detector):
    """As with the weights of the last class zeroed: it is never found."""

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        return [one.where(one.labels != 2) for one in super().detect(images)]


class BlindToOddShapes(Detector):
    """Finds nothing in one picture that is none of the dataset's."""

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        odd = [number for number, image in enumerate(images) if image.size not in SIZES]
        return [NOTHING if number in odd[-2:] else one for number, one in enumerate(super().detect(images))]


def prove(
    bundle: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch, detector: type[Detector], sizes: tuple[int, ...]
) -> VerificationReport:
    monkeypatch.setattr(executable, "Detector", detector)
    reference = verify.measure(load_trained(toy.run), THRESHOLDS, Proof(proof_dataset(toy.data), batch_sizes=sizes))
    return verify.compare(bundle, reference)


def test_an_artefact_that_loses_objects_in_batches_is_worse_there_and_unlike_itself(
    bundle: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = prove(bundle, toy, monkeypatch, LosesTheBestInBatches, (3,))
    alone, batched = report.artefacts
    assert not report.passed
    assert abs(alone.map_drop) < 0.001
    assert batched.map_drop > 0.05
    assert batched.map_drop == pytest.approx(report.live.AP - batched.statistics.AP)
    assert alone.versus_live.share == alone.versus_single.share == 1
    assert batched.versus_single.share == pytest.approx(batched.versus_live.share)
    assert batched.versus_single.share < 0.8
    assert batched.versus_single.only_second == 0
    assert batched.versus_live.images == len(SIZES)  # those that fill up the last batch do not count
    found = " ".join(report.reasons)
    assert "at batch 3: mAP differs by +" in found
    assert "match those of PyTorch" in found
    assert "match those of its own batch of 1" in found
    assert "at batch 1" not in found


def test_an_artefact_that_always_loses_objects_is_like_itself_and_unlike_pytorch(
    bundle: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = prove(bundle, toy, monkeypatch, LosesTheBest, (3,))
    for artefact in report.artefacts:
        assert artefact.versus_live.share < 0.8
        assert artefact.versus_live.only_first > 0
        assert artefact.versus_single.share == 1
    assert "at batch 1: only" in " ".join(report.reasons)


def test_an_artefact_that_fails_on_one_odd_shape_is_rejected(
    bundle: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = prove(bundle, toy, monkeypatch, BlindToOddShapes, (1,))
    assert report.odd_shapes.images == 9
    assert report.odd_shapes.only_first > 0
    assert [reason for reason in report.reasons if not reason.startswith("images of extreme shape")] == []
    assert not report.passed
    assert any(picture.picture.startswith("bild 6.png, ") for picture in report.apart)
    assert report.to_dict()["apart"][0]["unmatched"] > 0
    assert "## Pictures that differ most" in report_markdown(report)
    assert "Likely cause: the tensors before suppression are equal but for rounding" in report_markdown(report)


def test_a_class_that_vanishes_is_named(bundle: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    report = prove(bundle, toy, monkeypatch, BlindToOneClass, (1,))
    (worst,) = [each for each in report.worst.criteria if each.kind == "class" and each.failed]
    assert worst is report.worst.worst_class
    assert (worst.name, worst.artefact, worst.interval) == ("größte Eule", 0.0, worst.interval)
    assert worst.interval is not None and worst.interval.beyond(worst.limit)
    assert any("AP of class 'größte Eule'" in reason for reason in report.reasons)


def test_tensors_inside_the_graph_are_held_against_pytorch(bundle: Path, toy: Toy) -> None:
    class Moved(LiveDetector):
        def dense(self, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
            boxes, scores = super().dense(image)
            return boxes + 2, scores + 0.25

    live = live_detector(toy.run)
    live.__class__ = Moved
    difference = compare_tensors(live, bundle / "model.onnx", proof_dataset(toy.data), threads=1)
    assert difference.images == len(SIZES)
    assert difference.boxes == pytest.approx(2, abs=0.05)
    assert difference.scores == pytest.approx(0.25, abs=1e-3)


class Counts:
    """An artefact that detects nothing and remembers what it was given."""

    def __init__(self) -> None:
        self.runs: list[list[tuple[int, int]]] = []

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        self.runs.append([image.size for image in images])
        return [replace(NOTHING, labels=np.array([images.index(image)])) for image in images]


@pytest.mark.parametrize(("batch", "runs"), [(1, 7), (2, 4), (5, 2), (7, 1), (20, 1)])
def test_every_run_of_the_graph_has_exactly_the_batch_that_is_proven(toy: Toy, batch: int, runs: int) -> None:
    artefact, seen = Counts(), []
    found = run_artefact(
        artefact, proof_dataset(toy.data), batch, lambda step, done, total: seen.append((step, done, total))
    )
    assert [len(sizes) for sizes in artefact.runs] == [batch] * runs
    assert [size for sizes in artefact.runs for size in sizes][: len(SIZES)] == list(SIZES)
    assert [int(one.labels[0]) for one in found] == [number % batch for number in range(len(SIZES))]
    assert seen[-1] == (f"verifying, batch {batch}", len(SIZES), len(SIZES))


def statistics(ap: float) -> Statistics:
    return Statistics(**dict.fromkeys(NAMES, ap), per_class={})


ALIKE = Comparison(images=3, matched=10)
UNLIKE = Comparison(images=3, matched=96, only_first=3, only_second=1)  # 98 %
AP = Criterion("AP", "AP", 0.5, 0.5, 2000, 0.001, Interval(-0.0001, 0.0002))
GOOD = ArtefactResult("model.onnx", "runtime", 2, statistics(0.5), 0.0, ALIKE, ALIKE, criteria=[AP])
SAME = TensorDifference(images=1)


def dropped(drop: float, **changes: Any) -> ArtefactResult:
    """An artefact of which one figure is less by so much."""
    return replace(GOOD, criteria=[AP, replace(AP, **{"live": 0.5, "artefact": 0.5 - drop, **changes})])


def judge(
    artefact: ArtefactResult = GOOD, odd: Comparison = ALIKE, tensors: TensorDifference = SAME, detections: int = 10
) -> list[str]:
    return reasons([GOOD, artefact], odd, tensors, detections, Limits.of("fp32"))


def test_what_was_run_otherwise_is_told_apart() -> None:
    (reason,) = judge(replace(dropped(0.1), runtime="openvino 2026.4 CPU", further=True))
    assert reason.startswith("model.onnx in openvino 2026.4 CPU at batch 2: mAP differs")


def test_a_difference_as_large_as_the_tolerance_holds() -> None:
    exactly = Comparison(matched=99, only_first=1, only_second=1)
    for drop in (0.001, -0.001, 0.5 - 0.499):
        assert judge(replace(dropped(drop), versus_live=exactly, versus_single=exactly), odd=exactly) == []


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        ({"artefact": dropped(0.0011)}, "model.onnx at batch 2: mAP differs by +0.0011, allowed is 0.001"),
        ({"artefact": dropped(-0.0011)}, "model.onnx at batch 2: mAP differs by -0.0011"),
        ({"artefact": dropped(float("nan"))}, "mAP differs by +nan"),
        ({"artefact": dropped(0.1, name="dog", kind="class")}, "AP of class 'dog' (2000 boxes) differs by +0.1000"),
        ({"artefact": replace(GOOD, versus_live=UNLIKE)}, "only 97.96 % of detections match those of PyTorch"),
        ({"artefact": replace(GOOD, versus_single=UNLIKE)}, "match those of its own batch of 1, required are 99 %"),
        ({"odd": UNLIKE}, "images of extreme shape: only 97.96 % of detections match"),
        ({"tensors": TensorDifference(boxes=float("inf"))}, "not finite"),
        ({"tensors": TensorDifference(scores=float("nan"))}, "not finite"),
        ({"detections": 0}, "PyTorch itself detects nothing"),
    ],
)
def test_each_measurement_beyond_its_limit_is_one_reason(measured: dict[str, object], reason: str) -> None:
    (found,) = judge(**measured)  # type: ignore[arg-type]
    assert reason in found


def test_of_many_classes_the_worst_are_named_and_the_others_counted() -> None:
    lost = [replace(AP, name=f"class {number}", kind="class", artefact=0.4 - number / 100) for number in range(5)]
    (reason,) = judge(replace(GOOD, criteria=[AP, *lost]))
    assert [f"'class {number}'" in reason for number in range(5)] == [False, False, True, True, True]
    assert reason.index("class 4") < reason.index("class 3")
    assert reason.endswith(", and 2 more classes")


WIDE = replace(AP, artefact=0.4995, interval=Interval(-0.0005, 0.0015))


@pytest.mark.parametrize(
    ("ap", "images", "sentences"),
    [
        (AP, 20, []),
        (replace(AP, interval=None), 20, []),
        (replace(AP, boxes=100), 20, []),
        (replace(AP, boxes=99), 20, ["moves the mAP of 99 boxes by about 0.001, more than the tolerance of 0.001: at "
                                     "least 100 boxes"]),
        (replace(AP, boxes=9, limit=0.0), 20, ["the tolerance is 0"]),
        (AP, 19, ["19 images say little of others: at least 20 are needed"]),
        (WIDE, 100, ["mAP difference from -0.0005 to +0.0015 (95 % interval), and the tolerance is 0.001; about 400 "
                     "images would settle it"]),
        (replace(WIDE, artefact=0.499), 100, ["the tolerance is 0.001"]),
        (replace(WIDE, boxes=10), 5, ["moves the mAP of 10 boxes", "5 images say little"]),
    ],
)  # fmt: skip
def test_images_that_do_not_prove_the_tolerance_are_told_with_what_would(
    ap: Criterion, images: int, sentences: list[str]
) -> None:
    found = shortcomings([ap], images)
    assert len(found) == len(sentences)
    assert all(sentence in told for sentence, told in zip(sentences, found, strict=True))
    assert images == 100 or all("would settle" not in told for told in found)


def test_classes_with_few_boxes_are_named_once() -> None:
    few = [replace(AP, name=f"class {number}", kind="class", boxes=40 + number) for number in range(12)]
    (remark,) = class_remarks([AP, *few])
    assert remark.startswith("10 of 12 classes have fewer than 50 boxes (class 0, class 1, class 2 and 7 more)")
    assert class_remarks([AP, *few[10:]]) == []


@pytest.mark.parametrize(
    ("cached", "live", "remark"), [(None, 0.5, ""), (0.5, 0.491, ""), (0.5, 0.48, "-0.0200"), (0.5, 0.53, "+0.0300")]
)
def test_a_figure_from_the_cache_unlike_the_live_one_is_remarked(
    cached: float | None, live: float, remark: str
) -> None:
    remarks = cache_remarks(cached, live)
    assert len(remarks) == bool(remark)
    assert all(f"the figure from the feature cache differs by {remark}: " in text for text in remarks)
