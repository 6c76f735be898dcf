"""OpenVINO runs a bundle as ONNX Runtime does, on the device that was named and in the graph's own precision."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from detheads.deploy import BundleSession, Detector
from detheads.deploy.inputs import collect_images
from detheads.deploy.matching import Comparison
from detheads.foundation.errors import UserError
from tests.export.toy import Toy

openvino = pytest.importorskip("openvino", reason="needs detheads[openvino]")


@pytest.fixture(scope="module")
def detector(bundle: Path) -> Detector:
    return Detector(bundle, backend="openvino", threads=1)


def test_openvino_and_onnx_runtime_find_the_same(bundle: Path, toy: Toy, detector: Detector) -> None:
    pictures = [image.path for image in collect_images([toy.data], split="val")]
    compared = Comparison.of(Detector(bundle)(pictures, batch=3), detector(pictures, batch=2))
    assert compared.matched > 50
    assert compared.share == 1.0
    assert compared.box_difference < 0.01
    assert compared.score_difference < 1e-4


def test_the_runtime_is_named_with_version_and_device(detector: Detector) -> None:
    version = openvino.__version__.partition("-")[0]
    assert detector.session.runtime == f"openvino {version} CPU"
    assert detector.session.file == "model.onnx"


def test_an_fp32_graph_is_computed_in_fp32(detector: Detector) -> None:
    """On a CPU with bfloat16 OpenVINO would compute in that, unless told otherwise."""
    compiled = detector.session.runner._compiled  # type: ignore[attr-defined]
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_threads_share_a_detector(detector: Detector) -> None:
    random = np.random.default_rng(0)
    pictures = list(random.integers(0, 256, (8, 120, 90, 3), np.uint8))
    alone = [detector(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detector, pictures))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("openvino:AUTO", "AUTO lets OpenVINO choose the device; name one of CPU"),
        ("openvino:HETERO:GPU,CPU", "HETERO:GPU,CPU lets OpenVINO choose the device"),
        ("openvino:XPU", "OpenVINO has no device XPU here; it offers CPU"),
    ],
)
def test_a_device_that_is_not_there_or_not_named_is_refused(bundle: Path, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        BundleSession(bundle, backend=name)
