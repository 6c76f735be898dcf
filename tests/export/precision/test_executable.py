"""The proof of graphs that this machine cannot run as their types say."""

import pytest

from detheads.export.bundle_writer import trace_master, write_graph
from detheads.export.precision.calibration import choose_calibration
from detheads.export.precision.convert import convert
from detheads.export.precision.executable import executions
from detheads.export.precision.plan import Plan
from detheads.export.proof import Proof, proof_dataset
from detheads.export.source import load_trained
from detheads.export.verify import compare, measure
from detheads.foundation.manifest import ONLY_HEAD, Precision
from tests.export.toy import SIDE, THRESHOLDS, Toy, make_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def reports(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, str, float]]]:
    """Of each precision what was run, at which batch size, and the share of matched detections."""
    trained = load_trained(toy.run)
    master = trace_master({ONLY_HEAD: trained}, {ONLY_HEAD: THRESHOLDS})
    reference = measure(trained, THRESHOLDS, Proof(proof_dataset(toy.data), (1, 2)))
    calibration = choose_calibration(str(toy.images), (SIDE, SIDE))
    found = {}
    kinds: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
    for precision in kinds:
        folder = tmp_path_factory.mktemp(precision)
        dense = convert(master.dense, Plan(precision, calibration)).model
        manifest = write_graph(folder, precision, master, dense, precision)
        report = compare(folder, reference)
        assert report.onnx_sha256 == manifest.onnx.sha256
        assert len(executions(folder)) == (2 if precision == "fp16" else 1)
        found[precision] = [(each.batch, each.runtime, each.versus_live.share) for each in report.artefacts]
        said = [remark for remark in report.remarks if "did not compute" in remark]
        assert len(said) == (precision != "fp32")
    return found


def test_fp16_is_run_as_the_cpu_runs_it_and_rounded_as_a_gpu_would(
    reports: dict[str, list[tuple[int, str, float]]],
) -> None:
    (first, second, third) = reports["fp16"]
    assert [first[0], second[0], third[0]] == [1, 2, 1]
    assert "emulated" not in first[1] + second[1] and "each result rounded to fp16" in third[1]
    assert min(first[2], second[2], third[2]) > 0.97


def test_bf16_is_run_rounded_only_and_says_so(reports: dict[str, list[tuple[int, str, float]]]) -> None:
    assert [batch for batch, _, _ in reports["bf16"]] == [1, 2]
    assert all("each result rounded to bf16" in runtime for _, runtime, _ in reports["bf16"])
    assert min(share for _, _, share in reports["bf16"]) > 0.8


def test_fp32_is_run_as_it_is(reports: dict[str, list[tuple[int, str, float]]]) -> None:
    assert [(batch, "emulated" in runtime) for batch, runtime, _ in reports["fp32"]] == [(1, False), (2, False)]
