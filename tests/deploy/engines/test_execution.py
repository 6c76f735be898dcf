"""Engines executed on a GPU that is none: shapes, threads, graphs, refusals. ``tests/gpu`` has a real one."""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from detheads.deploy.engines import bundled, opening
from detheads.deploy.engines.execution import MOST_GRAPHS
from detheads.deploy.engines.inspection import executed_types
from detheads.deploy.engines.library import Library
from detheads.deploy.engines.machine import find_gpu, gpu_here
from detheads.deploy.engines.options import BatchProfile, EngineOptions
from detheads.deploy.session import BundleSession
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.errors import UserError
from tests.deploy.engines.conftest import Small, with_engine
from tests.deploy.engines.graphs import SIDE, detector
from tests.deploy.engines.imitation import HostCuda, engine_of, library_of

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")
runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs the cuda-python package")

RTX = Library(trt, "tensorrt_rtx", trt.__version__)
without_a_gpu = pytest.mark.skipif(gpu_here() is not None, reason="says what is said where there is no GPU")


@dataclass
class Device:
    """A bundle with an engine, on a machine with a GPU.

    Attributes:
        load: what the library's runtime does with the engine's bytes.
    """

    bundle: Path
    cuda: HostCuda
    monkeypatch: pytest.MonkeyPatch
    sizes: tuple[int, int, int] = (1, 2, 5)
    waits: bool = False
    validity: Any = None
    engines: list[Any] = field(default_factory=list)
    provider: str = "tensorrt_rtx"

    def load(self, content: bytes) -> Any:
        assert content == (self.bundle / read_manifest(self.bundle).engines[0].file).read_bytes()
        self.engines.append(engine_of(trt, self.bundle / "model.onnx", self.cuda, self.sizes, self.waits))
        return self.engines[-1]

    def open(self, provider: str = "", version: str = trt.__version__, threads: int | None = None) -> BundleSession:
        provider = provider or self.provider
        library = library_of(trt, provider.partition(":")[0], version, self.load, self.validity)
        self.monkeypatch.setattr(opening, "load_library", lambda name: library)
        return BundleSession(self.bundle, backend=provider, threads=threads)


@pytest.fixture
def device(small: Small, monkeypatch: pytest.MonkeyPatch) -> Device:
    folder = small(detector())
    bundled.build_into(folder, EngineOptions(BatchProfile(1, 2, 5), ("SM86",)), library=RTX)
    cuda = HostCuda(runtime)
    monkeypatch.setattr(opening, "cuda_runtime", lambda: cuda)
    return Device(folder, cuda, monkeypatch)


@pytest.fixture
def enterprise(device: Device) -> Device:
    """The same with NVIDIA's ``tensorrt``, whose graphs are captured here."""
    with_engine(device.bundle, builder="tensorrt 10.9.0.34")
    device.provider = "tensorrt"
    device.monkeypatch.setattr("detheads.deploy.engines.recognition.header", lambda path: None)
    return device


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)


def expected(device: Device, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(str(device.bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(["boxes", "scores", "labels"], {"images": images})


def assert_right(device: Device, session: BundleSession, images: NDArray[np.uint8]) -> None:
    (rows,) = session.run(images).values()
    for found, wanted in zip(rows, expected(device, images), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 13])
def test_any_batch_runs_and_gives_each_image_its_own_rows(count: int, device: Device) -> None:
    session = device.open()
    assert session.runtime == f"tensorrt_rtx {trt.__version__} on A GPU that is none (SM86)"
    assert session.file == "engines/model.fp32.tensorrt_rtx.engine"
    for seed in range(2):
        assert_right(device, session, pictures(count, seed))


def test_threads_of_the_cpu_are_no_obstacle(device: Device) -> None:
    """A proof gives them to whatever it runs."""
    assert_right(device, device.open(threads=2), pictures(1))


def test_fewer_images_than_the_smallest_batch_are_filled_up(device: Device) -> None:
    device.sizes = (3, 4, 4)
    assert_right(device, device.open(), pictures(1))
    assert_right(device, device.open(), pictures(5))


def test_results_outlive_the_next_run(device: Device) -> None:
    session = device.open()
    first = session.run(pictures(2))
    kept = [array.copy() for rows in first.values() for array in rows]
    session.run(pictures(2, seed=9))
    for array, before in zip((array for rows in first.values() for array in rows), kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_threads_share_an_engine(device: Device) -> None:
    session = device.open()
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(5):
                assert_right(device, session, pictures(1 + (seed + step) % 7, seed))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


@pytest.mark.parametrize("waits", [False, True])
def test_tensorrt_rtx_captures_by_itself_what_can_be_captured(waits: bool, device: Device) -> None:
    device.waits = waits
    session = device.open()
    assert_right(device, session, pictures(2))
    (engine,) = device.engines
    strategies = [call.kwargs for call in engine.create_execution_context.call_args_list]
    assert [list(options) for options in strategies] == ([[]] if waits else [[], ["runtime_config"]])
    if not waits:
        assert strategies[1]["runtime_config"].cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert "cudaStreamBeginCapture" not in device.cuda.calls


def test_tensorrt_runs_each_batch_size_as_a_graph_of_its_own(enterprise: Device) -> None:
    session = enterprise.open(version="10.9.0.34")
    backend: Any = session.runner
    for count in (2, 1, 2, 2, 1, 5, 4, 3, 3, 2):
        assert_right(enterprise, session, pictures(count, seed=count))
    assert backend.runner.captured == [1, 2, 4, 5]  # the first four sizes; 3 came last and runs without
    assert len(backend.runner.captured) == MOST_GRAPHS
    assert enterprise.cuda.calls.count("cudaGraphLaunch") == 4
    before = enterprise.cuda.free
    backend.runner.close()
    assert enterprise.cuda.free > before
    assert enterprise.cuda.blocks == {}
    assert enterprise.cuda.calls.count("cudaGraphExecDestroy") == MOST_GRAPHS


@pytest.mark.parametrize("compatible", [False, True])
def test_only_a_version_compatible_engine_may_bring_a_program_along(compatible: bool, enterprise: Device) -> None:
    with_engine(enterprise.bundle, version_compatible=compatible)
    library = library_of(trt, "tensorrt", "10.9.0.34", enterprise.load)
    enterprise.monkeypatch.setattr(opening, "load_library", lambda name: library)
    BundleSession(enterprise.bundle, backend="tensorrt")
    assert getattr(library.module.Runtime(None), "engine_host_code_allowed", False) == compatible


def test_an_engine_that_cannot_be_captured_runs_all_the_same(enterprise: Device) -> None:
    enterprise.waits = True
    session = enterprise.open(version="10.9.0.34")
    backend: Any = session.runner
    for _ in range(3):
        assert_right(enterprise, session, pictures(2))
    assert backend.runner.captured == []
    assert enterprise.cuda.calls.count("cudaStreamBeginCapture") == 1


def test_a_second_gpu_is_named_by_its_number(device: Device) -> None:
    device.cuda.gpus = 2
    assert_right(device, device.open("tensorrt_rtx:1"), pictures(2))
    with pytest.raises(UserError, match="there is no GPU 2 here; the 2 that there are count from 0"):
        device.open("tensorrt_rtx:2")
    with pytest.raises(UserError, match=r"'tensorrt_rtx:left' names no GPU; write tensorrt_rtx:0"):
        device.open("tensorrt_rtx:left")


BUILD = "detheads bundle build .*small.detheads --library"


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"compute_capabilities": ["SM120"]}, r"it was built for SM120, and this is A GPU that is none \(SM86\)"),
        ({"builder": "tensorrt_rtx 1.5.0.1"}, f"it was built with tensorrt_rtx 1.5.0.1, and this is {RTX.version}"),
        ({"onnx_sha256": "0" * 64}, "it was built from another model.onnx"),
    ],
)
def test_an_engine_that_does_not_fit_is_recognised_before_it_is_loaded(
    update: dict[str, Any], said: str, device: Device
) -> None:
    with_engine(device.bundle, **update)
    with pytest.raises(UserError, match=rf"no engine of .* runs here \(.*{said}\); build one that does: {BUILD}"):
        device.open()
    assert device.engines == []


def test_the_library_s_own_judgement_of_the_header_is_asked(device: Device) -> None:
    flags = trt.EngineInvalidityDiagnostics
    device.validity = (trt.EngineValidity.INVALID, int(flags.UNSUPPORTED_CC) | int(flags.OLD_CUDA_DRIVER))
    with pytest.raises(UserError, match=f"unsupported cc, old cuda driver; build one that does: {BUILD}"):
        device.open()
    assert device.engines == []


def test_what_speaks_against_an_engine_is_one_sentence(device: Device) -> None:
    with pytest.raises(UserError, match=f"has no engine of tensorrt; build one: {BUILD} tensorrt"):
        device.open("tensorrt")
    device.load = lambda content: None  # type: ignore[method-assign]
    with pytest.raises(UserError, match=f"cannot load .* on A GPU that is none .* build it anew: {BUILD}"):
        device.open()


def test_a_gpu_without_room_is_one_sentence_and_keeps_nothing(device: Device) -> None:
    device.cuda.free = before = 1000
    with pytest.raises(UserError, match=r"has no room for 960 B .*out of memory.* smaller batches"):
        device.open()
    assert device.cuda.free == before


def test_an_engine_of_another_graph_is_refused(device: Device) -> None:
    ordinary = device.load

    def other(content: bytes) -> Any:
        engine = ordinary(content)
        engine.get_tensor_shape.side_effect = lambda name: trt.Dims((-1, 3, 16, 16))
        return engine

    device.load = other  # type: ignore[method-assign]
    with pytest.raises(UserError, match="is not one of this bundle's graph, build it anew"):
        device.open()


def test_a_manifest_that_was_edited_is_refused(device: Device) -> None:
    manifest = read_manifest(device.bundle)
    size = manifest.input.model_copy(update={"height": 16})
    write_manifest(device.bundle, manifest.model_copy(update={"input": size}))
    with pytest.raises(UserError, match=r"takes images \[3, 8, 8\], bundle.json says \[3, 16, 8\]"):
        device.open()


def test_a_failing_gpu_is_one_sentence(device: Device) -> None:
    session = device.open()
    device.cuda.do_cudaStreamSynchronize = lambda stream: (runtime.cudaError_t.cudaErrorECCUncorrectable,)  # type: ignore[method-assign]
    with pytest.raises(
        UserError, match=r"the engine stopped \(cudaStreamSynchronize on .*ECC.*\); restart the program"
    ):
        session.run(pictures(1))


@pytest.mark.parametrize("complete", [True, False])
def test_weights_that_were_left_out_are_taken_from_the_graph(complete: bool, device: Device) -> None:
    with_engine(device.bundle, stripped=True)
    refitter = create_autospec(trt.Refitter, instance=True)
    parser = create_autospec(trt.OnnxParserRefitter, instance=True)
    parser.refit_from_bytes.return_value, parser.num_errors = complete, 0 if complete else 1
    parser.get_error.return_value.desc.return_value = "weight of backbone.stem is missing"
    made: list[Any] = []

    def patched(*arguments: Any) -> Any:
        library = library_of(trt, "tensorrt_rtx", trt.__version__, device.load)
        vars(library.module).update(
            Refitter=lambda engine, log: made.append(engine) or refitter,
            OnnxParserRefitter=lambda given, log: parser if given is refitter else None,
        )
        return library

    device.monkeypatch.setattr(opening, "load_library", patched)
    if not complete:
        with pytest.raises(UserError, match=r"cannot put the weights of .*model\.onnx back: weight of backbone.stem"):
            BundleSession(device.bundle, backend="tensorrt_rtx")
        return
    session = BundleSession(device.bundle, backend="tensorrt_rtx")
    assert made == device.engines
    assert parser.refit_from_bytes.call_args.args[0] == (device.bundle / "model.onnx").read_bytes()
    refitter.refit_cuda_engine.assert_called_once()
    assert_right(device, session, pictures(2))


@without_a_gpu
def test_without_a_gpu_the_real_libraries_say_so(small: Small) -> None:
    folder = small(detector())
    bundled.build_into(folder, library=RTX)
    with pytest.raises(UserError, match=r"engines need an NVIDIA driver for CUDA \d+\.\d or newer|no NVIDIA GPU here"):
        BundleSession(folder, backend="tensorrt_rtx")


@pytest.mark.parametrize(
    ("error", "driver", "said"),
    [
        ("cudaErrorInsufficientDriver", 0, "need an NVIDIA driver for CUDA 13.5 or newer, and there is none here"),
        ("cudaErrorInsufficientDriver", 12040, "and the one here is for CUDA 12.4"),
        ("cudaErrorNoDevice", 0, "there is no NVIDIA GPU here, and engines run on nothing else"),
        ("cudaErrorUnknown", 0, r"no NVIDIA GPU here \(cudaErrorUnknown\)"),
    ],
)
def test_what_is_wrong_with_driver_or_gpu_is_told(error: str, driver: int, said: str) -> None:
    cuda = Mock(spec=runtime)
    cuda.cudaGetDeviceCount.return_value = getattr(runtime.cudaError_t, error), None
    cuda.cudaDriverGetVersion.return_value = runtime.cudaError_t.cudaSuccess, driver
    cuda.cudaRuntimeGetVersion.return_value = runtime.cudaError_t.cudaSuccess, 13050
    with pytest.raises(UserError, match=said):
        find_gpu(0, cuda)


TEN = {
    "Layers": [
        {"Outputs": [{"Format/Datatype": "Row major linear FP16 format"}]},
        {"Outputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]},
    ]
}
ELEVEN = {"Layers": [{"Outputs": [{"Format": "Row major linear FP32 format (kLINEAR)", "DataType": "Half"}]}] * 2}


@pytest.mark.parametrize(
    ("document", "types"), [(TEN, {"HALF": 1}), (ELEVEN, {"HALF": 2}), ({"Layers": ["only a name"]}, {})]
)
def test_the_inspector_s_words_are_counted_by_type(document: Any, types: dict[str, int]) -> None:
    engine = create_autospec(trt.ICudaEngine, instance=True)
    inspector = create_autospec(trt.EngineInspector, instance=True)
    inspector.get_engine_information.return_value = json.dumps(document)
    engine.create_engine_inspector.return_value = inspector
    assert executed_types(engine, RTX) == types
