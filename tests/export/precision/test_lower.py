"""FP16, BF16 and their mixture, on a tiny transformer detector and against NumPy's own arithmetic."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser

from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.export.precision.calibration import Calibration, Picture
from detheads.export.precision.convert import convert
from detheads.export.precision.lower import census
from detheads.export.precision.plan import Plan
from detheads.export.precision.policy import POLICY, kept_by_policy
from detheads.export.precision.ranges import measure_ranges
from detheads.export.precision.rounding import low_types, rounded
from detheads.export.precision.view import View, tensor_types
from detheads.export.tail import with_suppression
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Thresholds
from tests.export.precision.attentive import SIDE, attentive_detector

IMAGES = np.random.default_rng(1).integers(0, 256, (6, 3, SIDE, SIDE), dtype=np.uint8)
CALIBRATION = Calibration(
    "tiny", None, tuple(Picture(str(row), "0" * 64, one) for row, one in enumerate(IMAGES)), SIDE, SIDE
)
LOW = ("fp16", "bf16", "mixed")
OVERFLOW = 1e6
"""Factor with which the planted numbers pass FP16's largest, 65,504."""


def run(model: onnx.ModelProto, names: tuple[str, ...] = ("dense_boxes", "dense_scores")) -> list[np.ndarray]:
    return open_graph(model.SerializeToString()).run(list(names), {"images": IMAGES})


def apart(model: onnx.ModelProto, dense: onnx.ModelProto) -> float:
    """Largest difference of boxes (pixels) and scores between a graph as a GPU would run it, and FP32."""
    return max(float(np.abs(one - other).max()) for one, other in zip(run(rounded(model)), run(dense), strict=True))


@pytest.fixture(scope="module")
def dense() -> onnx.ModelProto:
    return attentive_detector()


@pytest.fixture(scope="module")
def overflowing() -> Callable[[str], onnx.ModelProto]:
    made = {"scores": attentive_detector(scores=OVERFLOW), "layer": attentive_detector(layer=OVERFLOW)}
    return made.__getitem__


def test_the_table_finds_each_of_its_parts(dense: onnx.ModelProto) -> None:
    found: dict[str, set[str]] = {}
    for name, part in kept_by_policy(View(dense)).items():
        found.setdefault(part, set()).add(name.removeprefix("model/"))
    assert found == {
        "pixels": {"floats", "pixels"},
        "attention scores": {"products", "logits", "attention"},
        "normalisation": {"normed"},
        "choices of the head": {
            "decision0_values",
            "decision0_choice",
            "cosines",
            "inverse",
            "length",
            "sum",
            "squares",
        },
        "box decode": {"sides", "dense_boxes"},
        "norms, sums and powers": {"narrow", "dots"},
        "scores": {"dense_scores"},
    }
    assert all(rule.reason and rule.source for rule in POLICY)


@pytest.mark.parametrize("precision", LOW)
def test_products_and_weights_are_converted_and_all_that_others_know_keeps_its_type(
    dense: onnx.ModelProto, precision: str
) -> None:
    before = dense.SerializeToString()
    found = convert(dense, Plan(precision, CALIBRATION))
    kind = "bf16" if precision == "bf16" else "fp16"
    assert dense.SerializeToString() == before
    assert found.details["products"][kind] == 7 and found.details["weight_bytes"].get("fp32", 0) < 1000
    assert found.model.ByteSize() < 0.75 * dense.ByteSize()
    types = tensor_types(found.model)
    assert types["images"] == TensorProto.UINT8
    assert {types[name] for name in ("dense_boxes", "dense_scores", "decision0_values")} == {TensorProto.FLOAT}
    onnx.checker.check_model(found.model, full_check=True)
    assert 0 < apart(found.model, dense) < (0.2 if kind == "bf16" else 0.02)


def test_fp16_runs_as_it_is_with_suppression_joined(dense: onnx.ModelProto) -> None:
    low = convert(dense, Plan("fp16", CALIBRATION)).model
    whole = with_suppression(low, Thresholds(max_detections=5, score=0.1), SIDE, SIDE)
    names = ("boxes", "scores", "labels")
    assert [array.shape for array in run(whole, names)] == [(6, 5, 4), (6, 5), (6, 5)]


def test_bf16_with_suppression_joined_runs_rounded(dense: onnx.ModelProto) -> None:
    low = convert(dense, Plan("bf16", CALIBRATION)).model
    whole = rounded(with_suppression(low, Thresholds(max_detections=5, score=0.1), SIDE, SIDE))
    boxes, scores, _ = run(whole, ("boxes", "scores", "labels"))
    wanted, _, _ = run(
        with_suppression(dense, Thresholds(max_detections=5, score=0.1), SIDE, SIDE), ("boxes", "scores", "labels")
    )
    assert scores.min() > 0.1 and np.abs(boxes - wanted).max() < 0.3


def test_attention_scores_that_overflow_are_kept_by_the_table_and_ruinous_without(
    overflowing: Callable[[str], onnx.ModelProto],
) -> None:
    dense = overflowing("scores")
    assert apart(convert(dense, Plan("fp16", CALIBRATION)).model, dense) < 0.02
    assert not apart(convert(dense, Plan("fp16", CALIBRATION, keep=False)).model, dense) < 1  # not a number
    assert apart(convert(dense, Plan("bf16", CALIBRATION, keep=False)).model, dense) < 0.5


def test_a_layer_that_overflows_is_found_by_its_range_and_named(overflowing: Callable[[str], onnx.ModelProto]) -> None:
    dense = overflowing("layer")
    for precision, kind in (("fp16", "fp32"), ("mixed", "bf16")):
        found = convert(dense, Plan(precision, CALIBRATION))
        assert set(found.details["ranges"]["too_wide"]) == {"model/wide", "model/active"}
        assert found.details["ranges"]["widest"][0]["node"] in {"model/wide", "model/active"}
        assert found.details["products"][kind] >= 1
        (remark,) = found.remarks
        assert f"2 nodes beyond the declared policy stay {kind}" in remark and "in model/" in remark
        assert apart(found.model, dense) < (0.02 if kind == "fp32" else 0.2)
    assert not apart(convert(dense, Plan("fp16", CALIBRATION, keep=False)).model, dense) < 1
    assert convert(attentive_detector(), Plan("fp16", CALIBRATION)).remarks == ()


def test_what_is_masked_by_infinity_stays_fp32_and_what_is_not_a_number_is_refused() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        masking (uint8[batch, 3, 32, 32] images) => (float[batch, 1, 32, 32] result) {
            floats = Cast<to=1>(images)
            pixels = Mul(floats, factor)
            layer = Conv(pixels, weight)
            bright = Greater(layer, limit)
            masked = Where(bright, layer, out)
            result = Relu(masked)
        }"""
    for limit, factor in ((0.5, 0.004), (0.5, np.nan)):
        model = parser.parse_model(text)
        constants = {"factor": factor, "weight": np.ones((1, 3, 1, 1)), "limit": limit, "out": -np.inf}
        for node in model.graph.node:
            node.name = node.output[0]
        for name, value in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        if np.isnan(factor):
            with pytest.raises(UserError, match="not a number in pixels"):
                convert(model, Plan("fp16", CALIBRATION))
            continue
        ranges = convert(model, Plan("fp16", CALIBRATION)).details["ranges"]
        assert ranges["too_wide"] == {"masked": None, "result": None}
        assert all(np.isfinite(row["largest"]) for row in ranges["widest"])


def test_ranges_are_those_of_the_tensors(dense: onnx.ModelProto) -> None:
    names = ("patches", "tokens", "normed", "logits", "wide", "narrow", "dense_boxes")
    model = onnx.ModelProto()
    model.CopyFrom(dense)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    found = measure_ranges(dense, CALIBRATION)
    for name, values in zip(names, run(model, names), strict=True):
        assert (found[name].low, found[name].high) == pytest.approx((values.min(), values.max()), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, ml_dtypes.bfloat16)]
)
def test_rounding_is_that_of_the_type_and_overflows_as_it_does(kind: int, dtype: type) -> None:
    model = parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 22]>
        chain (float[n] given) => (float[n] result) {{
            low = Cast<to={kind}>(given)
            scaled = Mul(low, factor)
            back = Mul(scaled, inverse)
            sum = Add(back, low)
            result = Cast<to=1>(sum)
        }}""")
    factor, inverse = np.asarray(300, dtype), np.asarray(1 / 300, dtype)
    for name, value in (("factor", factor), ("inverse", inverse)):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    noise = np.random.default_rng(0).normal(0, 50, 200)
    given = np.concatenate([[300, -300, 0, 1e-7, 65504], noise]).astype(np.float32)
    low = given.astype(dtype)
    with np.errstate(over="ignore"):
        wanted = (low * factor * inverse + low).astype(np.float32)
    assert low_types(model) == {kind}
    (found,) = open_graph(rounded(model).SerializeToString()).run(None, {"given": given})
    assert np.array_equal(found, wanted)
    assert np.isinf(wanted[0]) == (dtype == np.float16)


def test_what_is_not_lower_is_never_called_lower(dense: onnx.ModelProto) -> None:
    with pytest.raises(UserError, match="give --calibration"):
        convert(dense, Plan("fp16"))
    broad = attentive_detector()
    for tensor in broad.graph.initializer:
        if tensor.name.startswith("w_"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e7), tensor.name))
    with pytest.raises(UserError, match=r"nothing in this graph may be computed in fp16|not finite"):
        convert(broad, Plan("fp16", CALIBRATION))


@pytest.mark.slow  # the library alone takes seconds to import
def test_autocast_converts_the_same_nodes_to_the_same_effect(dense: onnx.ModelProto, tmp_path: Path) -> None:
    autocast = pytest.importorskip("modelopt.onnx.autocast", reason="needs nvidia-modelopt")
    ours = convert(dense, Plan("fp16", CALIBRATION)).model
    onnx.save(dense, tmp_path / "dense.onnx")
    theirs = autocast.convert_to_mixed_precision(
        str(tmp_path / "dense.onnx"),
        "fp16",
        nodes_to_exclude=[f"{name}$" for name in kept_by_policy(View(dense))],
        data_max=np.inf,
        keep_io_types=True,
    )
    del theirs.graph.value_info[:]
    products = [census(model)["products"] for model in (ours, theirs)]
    assert products[0] == products[1]
    assert apart(theirs, ours) < 0.02


def test_a_cpu_refuses_bf16_and_says_what_to_do(dense: onnx.ModelProto) -> None:
    with pytest.raises(UserError, match="does not compute in its precision: build an engine"):
        run(convert(dense, Plan("bf16", CALIBRATION)).model)
