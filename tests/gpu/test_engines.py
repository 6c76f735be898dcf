"""Engines executed: what TensorRT-RTX finds on a GPU is what ONNX Runtime finds on the processor.

Without a GPU the same code drives an imitation of the library's engine, specified by its real classes, that ONNX
Runtime computes: addresses, shapes and types are then known to be handed over rightly.
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from detheads.deploy.engines.builder import build_engine
from detheads.deploy.engines.library import default_capabilities, find_library
from detheads.deploy.engines.options import BatchProfile, EngineOptions
from detheads.export.graph import DetectorGraph
from detheads.export.matching import Comparison
from detheads.export.names import INPUT_NAME, OUTPUT_NAMES
from detheads.export.source import load_trained
from detheads.export.trace import random_inputs
from tests.export.toy import THRESHOLDS, Toy

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")

TYPES = {
    trt.DataType.UINT8: torch.uint8,
    trt.DataType.INT32: torch.int32,
    trt.DataType.FLOAT: torch.float32,
}
OPTIONS = EngineOptions(BatchProfile(1, 2, 5))


@dataclass(frozen=True)
class Found:
    """Detections of one image, unused rows left out."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.integer]


@pytest.fixture(scope="module")
def graph(toy: Toy) -> DetectorGraph:
    trained = load_trained(toy.run)
    return DetectorGraph(trained.backbone, trained.head, trained.checkpoint.feature_spec)


@pytest.fixture
def model(bundle: Path) -> Path:
    return bundle / "model.onnx"


def run_engine(engine: Any, images: Tensor, stream: Any) -> dict[str, NDArray[Any]]:
    """Execute ``engine`` on a uint8 batch ``[B, 3, H, W]`` that lies on its device."""
    context = engine.create_execution_context()
    assert context.set_input_shape(INPUT_NAME, tuple(images.shape))
    tensors = {INPUT_NAME: images.contiguous()}
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        kind = TYPES[engine.get_tensor_dtype(name)]
        if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
            shape = tuple(context.get_tensor_shape(name))
            tensors[name] = torch.full(shape, 77, dtype=kind, device=images.device)  # what is not written, shows
        assert tensors[name].dtype == kind
        assert context.set_tensor_address(name, tensors[name].data_ptr())
    if images.is_cuda:
        torch.cuda.synchronize()  # the tensors were filled on another stream
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items() if name != INPUT_NAME}


def assert_same_detections(found: dict[str, NDArray[Any]], model: Path, images: Tensor, pixels: float) -> None:
    """The engine's detections against ONNX Runtime's, as sets: rounding may change the order of near-equal scores."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    expected = dict(zip(OUTPUT_NAMES, session.run(list(OUTPUT_NAMES), {INPUT_NAME: images.numpy()}), strict=True))
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
        name: (array.shape, array.dtype) for name, array in expected.items()
    }
    comparison = Comparison()
    for image in range(len(images)):
        comparison.add(*(_detections(outputs, image) for outputs in (found, expected)))
    assert comparison.matched >= len(images)
    assert comparison.share >= 0.98
    assert comparison.box_difference <= pixels
    assert comparison.score_difference <= 0.01


def _detections(outputs: dict[str, NDArray[Any]], image: int) -> Found:
    boxes, scores, labels = (outputs[name][image] for name in ("boxes", "scores", "labels"))
    used = scores > 0
    return Found(boxes[used].astype(np.float64), scores[used], labels[used])


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_engine_finds_on_the_gpu_what_onnx_runtime_finds(
    batch: int, graph: DetectorGraph, model: Path, tmp_path: Path
) -> None:
    """Half a pixel and a hundredth of a score: TensorRT rounds products to TF32."""
    library = find_library()
    major, minor = torch.cuda.get_device_capability()
    if library.name == "tensorrt_rtx" and f"SM{major}{minor}" not in default_capabilities(library):
        pytest.skip(f"{library.name} {library.version} does not compile for SM{major}{minor}")
    built = build_engine(model, tmp_path / "model.engine", OPTIONS, library=library)

    class Log(library.module.ILogger):  # type: ignore[name-defined,misc]
        def log(self, severity: Any, message: str) -> None:
            """Said by the assertion below."""

    engine = library.module.Runtime(Log()).deserialize_cuda_engine(built.path.read_bytes())
    assert engine is not None
    images = random_inputs(graph, batch, seed=40 + batch)
    found = run_engine(engine, images.cuda(), torch.cuda.Stream())
    assert_same_detections(found, model, images, pixels=0.5)


@pytest.mark.parametrize("batch", [1, 5])
def test_an_imitated_engine_is_driven_as_the_real_one_would_be(batch: int, graph: DetectorGraph, model: Path) -> None:
    images = random_inputs(graph, batch, seed=40 + batch)
    found = run_engine(imitation(model), images, SimpleNamespace(cuda_stream=0, synchronize=lambda: None))
    assert_same_detections(found, model, images, pixels=1e-6)


def imitation(model: Path) -> Any:
    """An engine with the methods of ``ICudaEngine`` whose work ONNX Runtime does on the addresses it is given."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [INPUT_NAME, *OUTPUT_NAMES]
    kinds = dict(zip(names, (trt.DataType.UINT8, *[trt.DataType.FLOAT] * 2, trt.DataType.INT32), strict=True))
    shapes: dict[str, tuple[int, ...]] = {}
    addresses: dict[str, int] = {}
    rows = THRESHOLDS.max_detections

    def set_input_shape(name: str, shape: tuple[int, ...]) -> bool:
        shapes.update(
            {name: shape, "boxes": (shape[0], rows, 4), "scores": (shape[0], rows), "labels": (shape[0], rows)}
        )
        return True

    def memory(name: str) -> NDArray[Any]:
        kind = np.dtype(trt.nptype(kinds[name]))
        size = int(np.prod(shapes[name])) * kind.itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(addresses[name]), kind).reshape(shapes[name])

    def execute_async_v3(stream_handle: int) -> bool:
        for name, values in zip(
            OUTPUT_NAMES, session.run(list(OUTPUT_NAMES), {INPUT_NAME: memory(INPUT_NAME)}), strict=True
        ):
            memory(name)[...] = values
        return True

    context = create_autospec(trt.IExecutionContext, instance=True)
    context.set_input_shape.side_effect = set_input_shape
    context.get_tensor_shape.side_effect = lambda name: trt.Dims(shapes[name])
    context.set_tensor_address.side_effect = lambda name, address: addresses.update({name: address}) is None
    context.execute_async_v3.side_effect = execute_async_v3
    engine = create_autospec(trt.ICudaEngine, instance=True)
    engine.num_io_tensors = len(names)
    engine.get_tensor_name.side_effect = names.__getitem__
    engine.get_tensor_dtype.side_effect = kinds.__getitem__
    engine.get_tensor_mode.side_effect = lambda name: (
        trt.TensorIOMode.INPUT if name == INPUT_NAME else trt.TensorIOMode.OUTPUT
    )
    engine.create_execution_context.return_value = context
    return engine
