"""The tail of the shipped graph in ONNX Runtime, OpenVINO and TensorRT-RTX against torchvision's suppression."""

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor
from torchvision.ops import batched_nms

from detheads.export.names import OUTPUT_NAMES
from detheads.export.tail import in_suppression, with_suppression
from detheads.foundation.manifest import Thresholds
from detheads.ops.nms import hard_nms

Detections = tuple[Tensor, ...]
USUAL = Thresholds()
SIDE = 1024


def dense_model(count: int, classes: int, prefix: str = "") -> ModelProto:
    """A graph that gives its inputs as dense predictions."""
    shapes = {"boxes": ["batch", count, 4], "scores": ["batch", count, classes]}
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{prefix}dense_{name}"], f"{prefix}head/{name}") for name in shapes],
        "dense",
        [tensor(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [tensor(f"{prefix}dense_{name}", TensorProto.FLOAT, shape) for name, shape in shapes.items()],
    )
    for node in graph.node:
        node.input[0] = f"{prefix}given_{node.input[0]}"
    for given in graph.input:
        given.name = f"{prefix}given_{given.name}"
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@cache
def tail(count: int, classes: int, limits: Thresholds) -> ModelProto:
    return with_suppression(dense_model(count, classes), limits, SIDE, SIDE)


@cache
def session(count: int, classes: int, limits: Thresholds) -> onnxruntime.InferenceSession:
    model = tail(count, classes, limits).SerializeToString()
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def select(boxes: Tensor, scores: Tensor, limits: Thresholds = USUAL) -> Detections:
    """The tail in ONNX Runtime."""
    feeds = {"given_boxes": boxes.numpy(), "given_scores": scores.numpy()}
    found = session(*scores.shape[1:], limits).run(OUTPUT_NAMES, feeds)
    return tuple(torch.from_numpy(np.asarray(array)) for array in found)


def reference(boxes: Tensor, scores: Tensor, limits: Thresholds) -> Detections:
    """torchvision's NMS of one image: boxes ``[N, 4]``, scores ``[N, K]``; padded to ``max_detections`` rows."""
    flat = scores.flatten()
    order = flat.sort(descending=True, stable=True).indices[: limits.candidates]
    order = order[flat[order] > limits.score]
    labels = order % scores.shape[1]
    rows = limits.max_detections
    keep = batched_nms(boxes[order // scores.shape[1]], flat[order], labels, limits.nms_iou)
    keep = keep.sort().values[:rows]  # of many candidates, batched_nms gives those of equal score in any order
    result = (torch.zeros(rows, 4), torch.zeros(rows), torch.zeros(rows, dtype=torch.int32))
    result[0][: len(keep)] = boxes[order // scores.shape[1]][keep]
    result[1][: len(keep)] = flat[order][keep]
    result[2][: len(keep)] = labels[keep].int()
    return result


def scene(
    images: int, count: int, classes: int, seed: int, *, spread: float = 400.0, levels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Random boxes ``[B, N, 4]`` inside the input and scores ``[B, N, K]``; ``levels`` score values make ties.

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
def test_two_hundred_and_fifty_random_images_equal_torchvision_to_the_bit(
    count: int, classes: int, spread: float, levels: int | None
) -> None:
    for seed in range(5):
        boxes, scores = scene(50, count, classes, seed, spread=spread, levels=levels)
        assert_equal_to_torchvision(select(boxes, scores), boxes, scores)


@pytest.mark.parametrize(
    "limits",
    [
        Thresholds(score=0.6),
        Thresholds(score=0.0),
        Thresholds(nms_iou=0.2),
        Thresholds(nms_iou=0.9),
        Thresholds(nms_iou=1.0),
        Thresholds(candidates=37),
        Thresholds(max_detections=1),
        Thresholds(max_detections=7),
        Thresholds(candidates=5, max_detections=9),
        Thresholds(candidates=5, max_detections=9, nms_iou=1.0),
        Thresholds(max_detections=1000),
    ],
    ids=str,
)
def test_every_threshold_acts_as_in_torchvision(limits: Thresholds) -> None:
    boxes, scores = scene(50, 60, 2, seed=3, spread=60, levels=50)
    assert_equal_to_torchvision(select(boxes, scores, limits), boxes, scores, limits)


def test_a_chain_of_suppressions_of_any_length_is_exact() -> None:
    boxes, scores = descending_chain(180)
    found = select(boxes, scores)
    assert_equal_to_torchvision(found, boxes, scores)
    assert found[0][0, :90, 0].tolist() == [6.0 * n for n in range(90)]  # every second box of the row survives


def test_a_thousand_detections_of_full_size_inputs_equal_torchvision() -> None:
    boxes, scores = scene(2, 4000, 80, seed=11, spread=700)
    limits = Thresholds(max_detections=1000, candidates=3000)
    found = select(boxes, scores**8, limits)
    assert_equal_to_torchvision(found, boxes, scores**8, limits)
    assert (found[1] > 0).all()


def test_images_of_a_batch_that_end_after_different_steps_do_not_touch_each_other() -> None:
    boxes, scores = scene(6, 150, 3, seed=1, spread=100)
    scores[0] = 0.0  # no candidate at all
    scores[1, 1:] = 0.0  # one box
    scores[2, :, 1:] = 0.0  # one class
    boxes[3] = boxes[3, :1]  # everything in one place
    scores[4] = 0.5  # nothing but ties
    found = select(boxes, scores)
    assert_equal_to_torchvision(found, boxes, scores)
    counts = (found[1] > 0).sum(dim=1).tolist()
    assert counts[0] == 0
    assert counts[3] == 3
    assert counts[5] > counts[2] > counts[1] >= 1
    for image in range(len(boxes)):
        alone = select(boxes[image : image + 1], scores[image : image + 1])
        assert all(torch.equal(part[image], one[0]) for part, one in zip(found, alone, strict=True))


@pytest.mark.parametrize("tenths", range(1, 10))
def test_an_iou_at_the_threshold_is_decided_as_in_torchvision(tenths: int) -> None:
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, tenths]]])
    scores = torch.tensor([[[0.9], [0.8]]])
    limits = Thresholds(nms_iou=tenths / 10)
    assert_equal_to_torchvision(select(boxes, scores, limits), boxes, scores, limits)


def test_boxes_of_different_classes_do_not_suppress_each_other_even_at_negative_coordinates() -> None:
    boxes = torch.tensor([[[-30.0, -30.0, 10.0, 10.0], [-30.0, -30.0, 10.0, 10.0]]])
    scores = torch.tensor([[[0.9, 0.6, 0.0], [0.8, 0.0, 0.7]]])
    _, kept, labels = select(boxes, scores, Thresholds(max_detections=4))
    assert kept[0].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.0])
    assert labels[0].tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize("iou", [0.5, 1.0])
def test_boxes_without_area_inside_the_input_take_no_place_of_others(iou: float) -> None:
    """As if the head had never given them: the same bits as torchvision's selection of the others, then clipped."""
    random = torch.Generator().manual_seed(5)
    corners = torch.rand(1, 300, 2, generator=random) * 1500 - 240  # some begin beyond the input
    boxes = torch.cat((corners, corners + torch.rand(1, 300, 2, generator=random) * 400), dim=2)
    boxes[0, ::7, 2] = boxes[0, ::7, 0]  # no width
    scores = torch.rand(1, 300, 3, generator=random)
    flat = boxes.clamp(0, SIDE)
    seen = (flat[0, :, 2:] > flat[0, :, :2]).all(dim=1)
    assert 50 < int((~seen).sum()) < 250
    limits = Thresholds(nms_iou=iou, candidates=200)
    found = select(boxes, scores, limits)
    expected = hard_nms(boxes[0, seen], scores[0, seen], limits)
    assert len(expected[1]) == limits.max_detections
    assert torch.equal(found[0][0], expected[0].clamp(0, SIDE))
    assert torch.equal(found[1][0], expected[1])
    assert torch.equal(found[2][0].long(), expected[2])


def test_unused_rows_are_zero() -> None:
    boxes, _ = scene(3, 30, 4, seed=0)
    found = select(boxes, torch.full((3, 30, 4), 0.04))
    assert [tuple(part.shape) for part in found] == [(3, 100, 4), (3, 100), (3, 100)]
    assert all((part == 0).all() for part in found)


def test_a_head_that_needs_no_suppression_carries_none() -> None:
    with_loop, without = (
        {node.op_type for node in tail(150, 3, Thresholds(nms_iou=iou)).graph.node} for iou in (0.5, 1)
    )
    assert "Loop" in with_loop
    assert without.isdisjoint({"Loop", "Scan", "If", "NonMaxSuppression"})
    assert len(tail(150, 3, Thresholds(nms_iou=1)).graph.node) < 40


def test_the_graph_is_valid_and_its_dense_tensors_keep_their_names_inside() -> None:
    dense = dense_model(150, 3)
    before = dense.SerializeToString(deterministic=True)
    model = with_suppression(dense, USUAL, SIDE, SIDE)
    assert dense.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == list(OUTPUT_NAMES)
    assert [entry.version for entry in model.opset_import] == [20]
    assert {"dense_boxes", "dense_scores"} <= {entry.name for entry in model.graph.value_info}
    assert [node.name for node in model.graph.node if not in_suppression(node)] == ["head/boxes", "head/scores"]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_two_heads_of_one_graph_have_tails_of_their_own() -> None:
    first, second = dense_model(60, 1, "a."), dense_model(40, 3, "b.")
    both = helper.make_graph(
        [*first.graph.node, *second.graph.node],
        "both",
        [*first.graph.input, *second.graph.input],
        [*first.graph.output, *second.graph.output],
    )
    model = helper.make_model(both, opset_imports=first.opset_import, ir_version=10)
    model = with_suppression(model, USUAL, SIDE, SIDE, "a.")
    model = with_suppression(model, Thresholds(max_detections=7), SIDE, SIDE, "b.")
    onnx.checker.check_model(model, full_check=True)
    runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    scenes = {"a.": scene(2, 60, 1, seed=0, spread=100), "b.": scene(2, 40, 3, seed=1, spread=100)}
    feeds = {
        f"{prefix}given_{name}": tensor.numpy()
        for prefix, tensors in scenes.items()
        for name, tensor in zip(("boxes", "scores"), tensors, strict=True)
    }
    for prefix, limits in (("a.", USUAL), ("b.", Thresholds(max_detections=7))):
        found = runtime.run([prefix + name for name in OUTPUT_NAMES], feeds)
        found = tuple(torch.from_numpy(np.asarray(array)) for array in found)
        assert_equal_to_torchvision(found, *scenes[prefix], limits)


@pytest.mark.parametrize(("iou", "levels"), [(0.5, None), (0.5, 10), (1.0, None)], ids=str)
def test_openvino_gives_what_onnx_runtime_gives(iou: float, levels: int | None) -> None:
    """Also of equal scores, which its TopK orders otherwise: suppression does not rely on that order."""
    openvino = pytest.importorskip("openvino")
    limits = Thresholds(max_detections=25, nms_iou=iou)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(tail(150, 3, limits).SerializeToString()), "CPU")
    for batch in (1, 3):
        boxes, scores = scene(batch, 150, 3, seed=batch, spread=50.0, levels=levels)
        scores[0, 20:] = 0.0
        results = compiled({"given_boxes": boxes.numpy(), "given_scores": scores.numpy()})
        found = tuple(torch.from_numpy(results[name]) for name in OUTPUT_NAMES)
        assert_equal_to_torchvision(found, boxes, scores, limits)


@pytest.mark.parametrize("iou", [0.5, 1.0])
def test_it_builds_in_tensorrt_rtx_with_a_dynamic_batch(iou: float) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    model = tail(600, 2, Thresholds(nms_iou=iou)).SerializeToString()
    assert parser.parse(model), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    for name, shape in (("given_boxes", (600, 4)), ("given_scores", (600, 2))):
        profile.set_shape(name, (1, *shape), (4, *shape), (8, *shape))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None and 0 < engine.nbytes < 4e6
