"""Engines executed: what TensorRT finds on a GPU is what ONNX Runtime finds on the processor.

Without a GPU the same tests drive an imitation of the library's engine, specified by its real classes, that ONNX
Runtime computes: addresses, shapes and types are then known to be handed over rightly.
"""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from detheads.deploy.detector import Detections, Detector
from detheads.deploy.engines import opening
from detheads.deploy.engines.bundled import build_into
from detheads.deploy.engines.library import find_library
from detheads.deploy.engines.machine import find_gpu
from detheads.deploy.engines.options import BatchProfile, EngineOptions
from detheads.export.matching import Comparison
from detheads.foundation.bundle import read_manifest
from tests.deploy.engines.imitation import HostCuda, engine_of, library_of

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")
runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs the cuda-python package")

BATCH = BatchProfile(1, 2, 5)
NEAR, EXACT = 0.5, 1e-6
"""Pixels: TensorRT rounds products to TF32, the imitation nothing."""


@pytest.fixture(scope="module", params=["imitated", pytest.param("executed", marks=pytest.mark.gpu)])
def opened(
    request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Detector, float]:
    """The toy's bundle with an engine on a GPU, and how near its boxes must be."""
    folder = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("engine") / "toy.detheads"))
    library = find_library("tensorrt_rtx" if request.param == "imitated" else None)
    if request.param == "executed":
        gpu = find_gpu()
        if library.capabilities and gpu.capability not in library.capabilities:
            pytest.skip(f"{library} does not compile for {gpu}")
        build_into(folder, EngineOptions(BATCH), library=library)
        return Detector(folder, backend=library.name), NEAR
    build_into(folder, EngineOptions(BATCH, ("SM86",)), library=library)
    cuda = HostCuda(runtime)
    imitated = library_of(
        trt, library.name, library.version, lambda content: engine_of(trt, folder / "model.onnx", cuda, BATCH.sizes)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "cuda_runtime", lambda: cuda)
        patch.setattr(opening, "load_library", lambda name: imitated)
        return Detector(folder, backend=library.name), EXACT


def pictures(detector: Detector, count: int) -> list[NDArray[np.uint8]]:
    size = detector.manifest.input
    random = np.random.default_rng(40 + count)
    small = random.integers(0, 256, (count, 9, 7, 3), dtype=np.uint8)
    return [np.kron(one, np.ones((size.height // 9, size.width // 7, 1), np.uint8)) for one in small]


def assert_same(found: list[Detections], expected: list[Detections], pixels: float) -> None:
    """As sets: rounding may change the order of near-equal scores."""
    comparison = Comparison.of(expected, found)
    assert comparison.matched >= len(expected)
    assert comparison.share >= 0.98
    assert comparison.box_difference <= pixels
    assert comparison.score_difference <= 0.01


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_an_engine_finds_what_onnx_runtime_finds(count: int, opened: tuple[Detector, float], bundle: Path) -> None:
    detector, pixels = opened
    images = pictures(detector, count)
    expected = Detector(bundle)(images)
    for _ in range(3):  # the second run may capture a CUDA graph, the third launches it
        assert_same(detector(images, batch=count), expected, pixels)


def test_threads_share_an_engine(opened: tuple[Detector, float], bundle: Path) -> None:
    detector, pixels = opened
    images = {count: pictures(detector, count) for count in (1, 3, 4)}
    expected = {count: Detector(bundle)(some) for count, some in images.items()}
    found: dict[int, list[Detections]] = {}
    threads = [
        threading.Thread(target=lambda count=count: found.update({count: detector(images[count])})) for count in images
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for count, some in expected.items():
        assert_same(found[count], some, pixels)


@pytest.mark.gpu
@pytest.mark.parametrize("option", ["strip_weights", "refittable"])
def test_an_engine_whose_weights_are_put_back_finds_the_same(option: str, bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "toy.detheads"))
    library = find_library()
    gpu = find_gpu()
    capabilities = (gpu.capability,) if library.capabilities else None
    full = build_into(folder, EngineOptions(BATCH, capabilities), library=library).entry
    other = build_into(folder, EngineOptions(BATCH, capabilities, **{option: True}), library=library).entry
    if option == "strip_weights":
        assert other.bytes < full.bytes
    detector = Detector(folder, backend=library.name)
    images = pictures(detector, 2)
    assert_same(detector(images), Detector(bundle)(images), NEAR)


@pytest.mark.gpu
def test_the_inspector_tells_the_types_of_the_built_engine(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "toy.detheads"))
    build_into(folder, EngineOptions(BATCH), library=find_library())
    (entry,) = read_manifest(folder).engines
    assert entry.executed_types is not None
    assert "HALF" not in entry.executed_types
