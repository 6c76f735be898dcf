"""INT8 graphs, on a tiny detector, in the real libraries that run or build them."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.export.precision.blocks import block_of, in_blocks, kept_float, weighted_layers
from detheads.export.precision.calibration import Calibration, Picture
from detheads.export.precision.fallback import fewest
from detheads.export.precision.int8 import convert
from detheads.export.precision.plan import Plan
from detheads.export.precision.qdq import Quantiser, measure_ranges
from detheads.export.precision.sensitivity import best_pairs, departure, rank_blocks
from detheads.foundation.errors import UserError
from detheads.foundation.progress import silent
from tests.export.precision.tiny import BLOCKS, SIDE, pictures, tiny_detector

IMAGES = pictures(6)
RUINED = 1


def plan(**options) -> Plan:
    chosen = tuple(Picture(str(number), "0" * 64, image) for number, image in enumerate(IMAGES))
    return Plan("int8", Calibration("tiny", None, chosen, SIDE, SIDE), **options)


def run(model: onnx.ModelProto, images=IMAGES) -> tuple[np.ndarray, np.ndarray]:
    return tuple(open_graph(model.SerializeToString()).run(["dense_boxes", "dense_scores"], {"images": images}))


def apart(first: onnx.ModelProto, second: onnx.ModelProto) -> float:
    sides = [[best_pairs(*one) for one in zip(*run(model), strict=True)] for model in (first, second)]
    return float(np.mean([departure(*pair) for pair in zip(*sides, strict=True)]))


@pytest.fixture(scope="module")
def dense() -> onnx.ModelProto:
    return tiny_detector()


@pytest.fixture(scope="module")
def ruined() -> onnx.ModelProto:
    return tiny_detector(RUINED)


def quantiser(dense: onnx.ModelProto, symmetric: bool, method: str = "minmax") -> Quantiser:
    layers = weighted_layers(dense)
    return Quantiser(dense, measure_ranges(dense, layers, IMAGES, method), symmetric=symmetric)


@pytest.mark.parametrize(
    ("node", "block"),
    [
        ("backbone.maps.model.blocks.3.mlp.fc1/MatMul", "backbone.maps.model.blocks.3.mlp"),
        ("backbone.maps.model.blocks.3.attn.qkv/Gemm_2", "backbone.maps.model.blocks.3.attn"),
        ("backbone.maps.model.blocks.1.0.bn2/Conv", "backbone.maps.model.blocks.1.0"),
        ("head.class_tower.2.0/Conv_4", "head.class_tower.2"),
        ("head.class_tower.2/Conv", "head.class_tower.2"),
        ("head.classes/Conv", "head.classes"),
        ("/MatMul", "graph"),
    ],
)
def test_layers_change_together_by_the_module_they_belong_to(node: str, block: str) -> None:
    assert block_of(node) == block


def test_only_what_has_trained_weights_is_a_layer() -> None:
    """Not products of two activations, fixed vectors, a patch embedding; one module applied twice is one layer."""
    constants = {
        "patch": np.ones((4, 3, 4, 4), np.float32),
        "conv": np.ones((4, 4, 1, 1), np.float32),
        "vector": np.ones(4, np.float32),
        "matrix": np.ones((4, 4), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["images", "patch"], ["a"], "backbone.model.patch_embed.proj/Conv"),
        helper.make_node("Conv", ["a", "conv"], ["b"], "head.tower.0.0/Conv"),
        helper.make_node("Conv", ["b", "conv"], ["c"], "head.tower.0.0/Conv_1"),
        helper.make_node("MatMul", ["c", "b"], ["d"], "backbone.model.blocks.0.attn/MatMul"),
        helper.make_node("MatMul", ["d", "vector"], ["e"], "head/MatMul"),
        helper.make_node("MatMul", ["d", "matrix"], ["f"], "head.project/MatMul"),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], tensors))
    layers = weighted_layers(model, kept_float(model))
    assert [(layer.weight, len(layer.nodes)) for layer in layers] == [("conv", 2), ("matrix", 1)]
    assert list(in_blocks(layers)) == ["head.tower.0", "head.project"]


@pytest.mark.parametrize(
    ("symmetric", "method"), [(True, "minmax"), (False, "minmax"), (True, "percentile"), (False, "entropy")]
)
def test_an_int8_graph_detects_nearly_what_the_fp32_graph_does(dense, symmetric: bool, method: str) -> None:
    """Entropy is measured on histograms and cuts ranges: it is close, not closest."""
    layers = weighted_layers(dense)
    model = quantiser(dense, symmetric, method).graph(layers)
    onnx.checker.check_model(model, full_check=True)
    assert 0 < apart(dense, model) < (0.3 if method == "entropy" else 0.1)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert sum(kind == TensorProto.INT8 and name.endswith("weight_quantized") for name, kind in kinds.items()) == 9
    assert not any(name.endswith(".weight") for name in kinds)
    zeros = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if "zero_point" in tensor.name]
    assert any(zero.any() for zero in zeros) != symmetric
    assert [entry.name for entry in model.graph.output] == ["dense_boxes", "dense_scores"]
    assert model.producer_name == "detheads"
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert "backbone.blocks.0.wide/DequantizeLinear" in {node.name for node in model.graph.node}


def test_layers_that_are_not_chosen_stay_as_they_are(dense) -> None:
    layers = weighted_layers(dense)
    model = quantiser(dense, symmetric=True).graph([layer for layer in layers if layer.block == "backbone.blocks.1"])
    quantised = {tensor.name.removesuffix(".weight_quantized") for tensor in model.graph.initializer
                 if tensor.name.endswith(".weight_quantized")}  # fmt: skip
    assert quantised == {"backbone.blocks.1.wide", "backbone.blocks.1.narrow"}
    assert apart(dense, quantiser(dense, symmetric=False).graph([])) == 0


@pytest.mark.parametrize("symmetric", [True, False])
def test_openvino_detects_what_onnx_runtime_does(dense, symmetric: bool) -> None:
    openvino = pytest.importorskip("openvino", reason="needs the openvino package")
    model = quantiser(dense, symmetric).graph(weighted_layers(dense))
    compiled = openvino.Core().compile_model(openvino.Core().read_model(model.SerializeToString()), "CPU")
    found = compiled(IMAGES)
    sides = [zip(*run(model), strict=True), zip(found["dense_boxes"], found["dense_scores"], strict=True)]
    pairs = zip(*([best_pairs(*one) for one in side] for side in sides), strict=True)
    assert np.mean([departure(*pair) for pair in pairs]) < 0.05


def test_tensorrt_builds_the_form_that_is_made_for_it(dense) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")
    model = quantiser(dense, symmetric=True).graph(weighted_layers(dense))
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
    types = [network.get_layer(n).get_output(0).dtype for n in range(network.num_layers)]
    assert types.count(trt.DataType.INT8) >= 9
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("images", *[(batch, 3, SIDE, SIDE) for batch in (1, 1, 2)])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config)


def test_a_rare_outlier_widens_the_range_of_minmax_alone() -> None:
    dense = tiny_detector()
    layers = weighted_layers(dense)
    stem = "stem.act"
    bright = np.full_like(IMAGES, 8)
    bright[0, :, :2, :2] = 255  # two of 3,072 pixels of one picture
    ranges = {method: measure_ranges(dense, layers, bright, method)[stem].range_value[1]
              for method in ("minmax", "entropy")}  # fmt: skip
    assert ranges["entropy"] < 0.7 * ranges["minmax"]


def test_departure_speaks_of_detections_and_not_of_rows() -> None:
    random = np.random.default_rng(0)
    low = random.uniform(0, 100, (400, 2))
    boxes = np.concatenate([low, low + random.uniform(5, 50, (400, 2))], axis=1).astype(np.float32)
    scores = random.uniform(0, 1, (400, 3)).astype(np.float32) ** 4
    order = random.permutation(400)
    own = best_pairs(boxes, scores)
    assert departure(own, best_pairs(boxes[order], scores[order])) == pytest.approx(0, abs=1e-6)
    moved = departure(own, best_pairs(boxes + 1, scores))
    assert 0 < moved < departure(own, best_pairs(boxes + 4, scores))
    worst = scores.copy()
    worst[scores < np.sort(scores.ravel())[-300]] = 0  # what cannot become a detection does not count
    assert departure(own, best_pairs(boxes, worst)) == pytest.approx(0, abs=1e-6)
    assert departure(own, best_pairs(boxes, scores[:, [1, 2, 0]])) > 0.5
    assert departure(own, best_pairs(boxes, scores / 2)) == pytest.approx(0.5, abs=0.01)
    assert departure(own, best_pairs(boxes, np.full_like(scores, np.nan))) == 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_layer_that_int8_ruins_is_ranked_first(dense, ruined, symmetric: bool) -> None:
    np.testing.assert_allclose(run(dense)[1], run(ruined)[1], atol=1e-4)  # in FP32 nothing is to be seen
    blocks = in_blocks(weighted_layers(ruined))
    assert list(blocks) == BLOCKS
    first, second, *_ = rank_blocks(ruined, quantiser(ruined, symmetric), blocks, IMAGES[:2]).items()
    assert first[0] == f"backbone.blocks.{RUINED}"
    assert first[1] > 3 * second[1]


@dataclass
class Verdict:
    passed: bool
    ap: float
    reasons: list[str] = field(default_factory=list)


def judge_of(dense: onnx.ModelProto, limit: float, judged: list[onnx.ModelProto]) -> Callable:
    """Passes what departs from the dense graph by no more than a limit."""

    def judge(model: onnx.ModelProto) -> Verdict:
        judged.append(model)
        found = apart(dense, model)
        return Verdict(found <= limit, 1 - found, [] if found <= limit else [f"departs by {found:.3f}"])

    return judge


def test_the_harmful_block_returns_to_fp32_and_the_rest_ships_in_int8(ruined) -> None:
    judged: list[onnx.ModelProto] = []
    converted = convert(ruined, plan(), judge_of(ruined, 0.1, judged), silent)
    details = converted.details
    assert details["returned"] == [f"backbone.blocks.{RUINED}"]
    assert (details["layers"], details["int8_layers"]) == (9, 7)
    assert [(step["returned"], step["passed"]) for step in details["curve"]] == [(0, False), (1, True)]
    assert details["curve"][0]["ap"] < details["curve"][1]["ap"]
    assert details["curve"][0]["reasons"]
    assert len(judged) == 2
    assert apart(ruined, converted.model) <= 0.1
    assert converted.model.SerializeToString() == judged[1].SerializeToString()
    assert any("back in FP32: backbone.blocks.1" in remark for remark in converted.remarks)


def test_without_fallback_the_refused_graph_is_given_for_the_proof_to_refuse(ruined) -> None:
    judged: list[onnx.ModelProto] = []
    details = convert(ruined, plan(fallback=False), judge_of(ruined, 0.1, judged), silent).details
    assert (details["returned"], details["share"]) == ([], 1)
    assert [step["passed"] for step in details["curve"]] == [False]


def test_when_nothing_passes_the_best_is_given_and_a_layer_stays_int8(ruined) -> None:
    judged: list[onnx.ModelProto] = []
    details = convert(ruined, plan(), judge_of(ruined, -1, judged), silent).details
    assert not any(step["passed"] for step in details["curve"])
    assert len(details["returned"]) == len(BLOCKS) - 1
    assert details["int8_layers"] >= 1


def test_a_graph_that_passes_at_once_is_not_ranked(dense) -> None:
    details = convert(dense, plan(), judge_of(dense, 1, []), silent).details
    assert (details["share"], details["returned"]) == (1, [])
    assert all(block["harm"] is None for block in details["blocks"])


def test_without_a_judge_it_says_that_nobody_measured(dense) -> None:
    converted = convert(dense, plan(engine=True), None, silent)
    assert converted.details["curve"] == []
    assert any("nobody measured" in remark for remark in converted.remarks)
    assert any("--onnx-only" in remark for remark in converted.remarks)


def test_what_cannot_be_done_is_refused(dense) -> None:
    with pytest.raises(UserError, match="minmax, percentile, entropy, not by 'mse'"):
        convert(dense, plan(method="mse"), None, silent)
    with pytest.raises(UserError, match="give --calibration"):
        convert(dense, Plan("int8"), None, silent)
    empty = helper.make_model(helper.make_graph([], "empty", [], []))
    with pytest.raises(UserError, match="could be INT8"):
        convert(empty, plan(), None, silent)


@pytest.mark.parametrize("last", [0, 1, 2, 7, 30])
def test_the_fewest_that_pass_are_found_with_few_judgements(last: int) -> None:
    for needed in range(last + 2):
        asked: list[int] = []

        def judge(number: int, needed: int = needed, asked: list[int] = asked) -> Verdict:
            asked.append(number)
            return Verdict(number >= needed, 0.0)

        assert fewest(last, judge) == (needed if needed <= last else None)
        assert len(asked) == len(set(asked)) <= 2 + 2 * max(last, 1).bit_length()


def test_the_same_pictures_give_the_same_bytes(dense) -> None:
    """In another process too, where sets of names have another order."""
    script = (
        "import sys; from tests.export.precision.test_int8 import *; "
        "sys.stdout.buffer.write(convert(tiny_detector(), plan(), None, silent).model.SerializeToString())"
    )
    other = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert other.stdout == convert(dense, plan(), None, silent).model.SerializeToString()
