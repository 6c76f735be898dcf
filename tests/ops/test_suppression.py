from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from detheads.foundation.manifest import Thresholds
from detheads.ops.scores import detection_scores
from detheads.ops.suppression import select_detections

Detections = tuple[Tensor, Tensor, Tensor]
USUAL = Thresholds()


def reference(boxes: Tensor, scores: Tensor, limits: Thresholds) -> Detections:
    """torchvision's NMS of one image: boxes ``[N, 4]``, scores ``[N, K]``; padded to ``max_detections`` rows."""
    flat = scores.flatten()
    order = flat.sort(descending=True, stable=True).indices[: limits.candidates]
    order = order[flat[order] > limits.score]
    labels = order % scores.shape[1]
    rows = limits.max_detections
    keep = batched_nms(boxes[order // scores.shape[1]], flat[order], labels, limits.nms_iou)[:rows]
    result = (torch.zeros(rows, 4), torch.zeros(rows), torch.zeros(rows, dtype=torch.int32))
    result[0][: len(keep)] = boxes[order // scores.shape[1]][keep]
    result[1][: len(keep)] = flat[order][keep]
    result[2][: len(keep)] = labels[keep].int()
    return result


def scene(
    images: int, count: int, classes: int, seed: int, *, spread: float = 400.0, levels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Random boxes ``[B, N, 4]`` and scores ``[B, N, K]``; ``levels`` score values make ties.

    Corners lie on eighths of a pixel: batched_nms shifts each class, and on eighths it does so without rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(images, count, 2, generator=generator) * spread + 200
    sides = torch.rand(images, count, 2, generator=generator) * 150 + 10
    boxes = (torch.cat((centers - sides / 2, centers + sides / 2), dim=2) * 8).round() / 8
    scores = torch.rand(images, count, classes, generator=generator)
    return boxes, scores if levels is None else (scores * levels).round() / levels


def assert_equal_to_torchvision(found: Detections, boxes: Tensor, scores: Tensor, limits: Thresholds = USUAL) -> None:
    for image in range(len(boxes)):
        for ours, theirs in zip(found, reference(boxes[image], scores[image], limits), strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours[image], theirs, rtol=0, atol=0)


def descending_chain(length: int) -> tuple[Tensor, Tensor]:
    """Boxes in a row, each overlapping only its neighbours beyond IoU 0.5, scores falling along the row."""
    left = torch.arange(length) * 3.0
    boxes = torch.stack((left, torch.zeros(length), left + 10, torch.full((length,), 10.0)), dim=1)
    return boxes[None], torch.linspace(0.9, 0.1, length)[None, :, None]


@pytest.mark.parametrize(
    ("count", "classes", "spread", "levels"),
    [
        pytest.param(60, 1, 400.0, None, id="sparse, one class"),
        pytest.param(150, 1, 60.0, None, id="dense, one class"),
        pytest.param(150, 1, 5.0, 20, id="piled up, ties"),
        pytest.param(40, 3, 100.0, None, id="several classes"),
        pytest.param(40, 3, 30.0, 8, id="several classes, dense, ties"),
        pytest.param(12, 80, 100.0, 5, id="80 classes, ties"),
        pytest.param(40, 3, 30.0, 1, id="scores 0 and 1 only"),
    ],
)
def test_five_hundred_random_images_equal_torchvision_to_the_bit(
    count: int, classes: int, spread: float, levels: int | None
) -> None:
    for seed in range(10):
        boxes, scores = scene(50, count, classes, seed, spread=spread, levels=levels)
        assert_equal_to_torchvision(select_detections(boxes, scores, USUAL), boxes, scores)


@pytest.mark.parametrize(
    "limits",
    [
        Thresholds(score=0.6),
        Thresholds(score=0.0),
        Thresholds(nms_iou=0.2),
        Thresholds(nms_iou=0.9),
        Thresholds(candidates=37),
        Thresholds(max_detections=7),
        Thresholds(candidates=5, max_detections=9),
    ],
    ids=str,
)
def test_every_threshold_acts_as_in_torchvision(limits: Thresholds) -> None:
    boxes, scores = scene(50, 60, 2, seed=3, spread=60, levels=50)
    assert_equal_to_torchvision(select_detections(boxes, scores, limits), boxes, scores, limits)


def test_a_chain_of_suppressions_of_any_length_is_exact() -> None:
    boxes, scores = descending_chain(180)
    found = select_detections(boxes, scores, USUAL)
    assert_equal_to_torchvision(found, boxes, scores)
    assert found[0][0, :90, 0].tolist() == [6.0 * n for n in range(90)]  # every second box of the row survives


def test_full_size_inputs_equal_torchvision() -> None:
    boxes, scores = scene(2, 4000, 80, seed=11, spread=400)
    assert_equal_to_torchvision(select_detections(boxes, scores**8, USUAL), boxes, scores**8)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_an_iou_at_the_threshold_is_decided_as_in_torchvision(tenths: int) -> None:
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, tenths]]])
    scores = torch.tensor([[[0.9], [0.8]]])
    limits = Thresholds(nms_iou=tenths / 10)
    assert_equal_to_torchvision(select_detections(boxes, scores, limits), boxes, scores, limits)


def test_boxes_of_different_classes_do_not_suppress_each_other_even_at_negative_coordinates() -> None:
    boxes = torch.tensor([[[-30.0, -30.0, 10.0, 10.0], [-30.0, -30.0, 10.0, 10.0]]])
    scores = torch.tensor([[[0.9, 0.6, 0.0], [0.8, 0.0, 0.7]]])
    _, kept, labels = select_detections(boxes, scores, Thresholds(max_detections=4))
    assert kept[0].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.0])
    assert labels[0].tolist() == [0, 2, 1, 0]


def test_boxes_without_area_are_each_detected_once() -> None:
    boxes = torch.tensor([[[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 10.0, 10.0]]])
    _, scores, _ = select_detections(boxes, torch.tensor([[[0.9], [0.8], [0.7]]]), Thresholds(max_detections=5))
    assert scores[0].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.0, 0.0])


def test_unused_rows_are_zero() -> None:
    boxes, _ = scene(3, 30, 4, seed=0)
    found = select_detections(boxes, torch.full((3, 30, 4), 0.04), USUAL)
    assert [tuple(part.shape) for part in found] == [(3, 100, 4), (3, 100), (3, 100)]
    assert all((part == 0).all() for part in found)


def test_scores_combine_class_and_quality() -> None:
    logits, quality = torch.randn(2, 5, 3), torch.randn(2, 5)
    torch.testing.assert_close(detection_scores(logits, None), logits.sigmoid())
    expected = (logits.sigmoid() * quality.sigmoid()[..., None]) ** 0.5
    torch.testing.assert_close(detection_scores(logits, quality), expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_evaluation_decides_ties_as_eager_evaluation_does(backend: str) -> None:
    boxes, scores = scene(2, 300, 3, seed=5, spread=60, levels=4)
    limits = Thresholds(max_detections=8)
    compiled = torch.compile(select_detections, backend=backend)(boxes, scores, limits)
    assert_equal_to_torchvision(compiled, boxes, scores, limits)


FEW = Thresholds(max_detections=25)


class Selection(nn.Module):
    """``select_detections`` as a graph."""

    def forward(self, boxes: Tensor, scores: Tensor) -> Detections:
        return select_detections(boxes, scores, FEW)


Export = Callable[[int, int], Path]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export for ``N`` boxes and ``K`` classes; returns the ONNX file."""
    pytest.importorskip("onnxscript")

    def write(count: int, classes: int) -> Path:
        path = tmp_path_factory.mktemp("graph") / "selection.onnx"
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.onnx.export(
            Selection().eval(),
            scene(2, count, classes, seed=0),
            dynamo=True,
            opset_version=20,
            input_names=["boxes", "scores"],
            dynamic_shapes=({0: batch}, {0: batch}),
            verbose=False,
        )
        assert program is not None
        program.save(path)
        return path

    return cache(write)


@pytest.mark.parametrize(("count", "classes"), [(150, 3), (600, 2), (20, 1)])
def test_the_exported_graph_equals_torchvision_at_every_batch_size(export: Export, count: int, classes: int) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = export(count, classes)
    onnx.checker.check_model(str(path), full_check=True)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert kinds.isdisjoint({"NonMaxSuppression", "NonZero", "Loop", "If", "Scan"})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        for seed in range(10):
            boxes, scores = scene(batch, count, classes, seed, spread=50.0, levels=(None, 10)[seed % 2])
            outputs = session.run(None, {"boxes": boxes.numpy(), "scores": scores.numpy()})
            found = tuple(torch.from_numpy(np.asarray(output)) for output in outputs)
            assert_equal_to_torchvision(found, boxes, scores, FEW)  # type: ignore[arg-type]


def test_the_exported_graph_builds_in_tensorrt_rtx_with_a_dynamic_batch(export: Export) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(export(600, 2))), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    for name, shape in (("boxes", (600, 4)), ("scores", (600, 2))):
        profile.set_shape(name, (1, *shape), (4, *shape), (8, *shape))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None and engine.nbytes > 0
