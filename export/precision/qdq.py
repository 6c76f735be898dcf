"""QuantizeLinear and DequantizeLinear around chosen layers, through ONNX Runtime's quantiser."""

import contextlib
import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import MinMaxCalibrater, QDQQuantizer, QuantType, TensorsData
from onnxruntime.quantization.calibrate import EntropyCalibrater, PercentileCalibrater

from detheads.export.names import INPUT_NAME
from detheads.export.precision.blocks import WEIGHTED, Layer

ENTROPY_BINS = 512
"""Of a histogram. The library's own 128 are as many as the levels, so that its search has one range to choose: the
whole. More bins than these cost a second a tensor."""

CLIPPING = ("Clip", "Relu")
"""Activations that an output range makes superfluous: the lowest and the highest level do what they do."""

INFERRED = {"onnx.infer": "onnxruntime.quant"}
"""Tells the quantiser that shapes are known; else it writes the graph to the disk and reads it again."""


class _Chosen:
    """Lets a calibrator of ONNX Runtime observe no more than the tensors of ``wanted``.

    By itself it observes whatever an operator of a type reads and writes: attention scores of a large image would fill
    the memory.
    """

    wanted: frozenset[str] = frozenset()

    def select_tensors_to_calibrate(self, model: onnx.ModelProto) -> tuple[set[str], dict[str, Any]]:
        tensors, known = super().select_tensors_to_calibrate(model)  # type: ignore[misc]
        return set(tensors) & self.wanted, known


class _MinMax(_Chosen, MinMaxCalibrater):
    pass


class _Entropy(_Chosen, EntropyCalibrater):
    pass


class _Percentile(_Chosen, PercentileCalibrater):
    pass


CALIBRATORS: dict[str, tuple[type, dict[str, Any]]] = {
    "minmax": (_MinMax, {}),
    "percentile": (_Percentile, {}),
    "entropy": (_Entropy, {"num_bins": ENTROPY_BINS}),
}
"""By the names of :data:`detheads.export.precision.plan.METHODS`."""


def measure_ranges(
    dense: onnx.ModelProto, layers: Sequence[Layer], images: Iterable[NDArray[np.uint8]], method: str
) -> TensorsData:
    """The ranges of what goes into and comes out of layers, over pictures ``[3, H, W]``, one in memory at a time."""
    kind, options = CALIBRATORS[method]
    nodes = {node.name: node for node in dense.graph.node}
    wanted = {
        tensor for layer in layers for name in layer.nodes for tensor in (nodes[name].input[0], *nodes[name].output)
    }
    wanted |= {node.output[0] for node in dense.graph.node if node.op_type in CLIPPING and node.input[0] in wanted}
    with tempfile.TemporaryDirectory(prefix="detheads-") as folder:
        path = Path(folder) / "dense.onnx"
        onnx.save_model(dense, str(path))
        calibrator = kind(path, [*WEIGHTED, *CLIPPING], str(Path(folder) / "observed.onnx"), **options)
        calibrator.wanted = frozenset(wanted)
        with contextlib.redirect_stdout(io.StringIO()):  # it narrates
            calibrator.augment_graph()
            calibrator.create_inference_session()
            for image in images:
                calibrator.collect_data(_One(image))
            return calibrator.compute_data()


class _One:
    """A calibration reader of a single picture."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._left = [{INPUT_NAME: image[None]}]

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return self._left.pop() if self._left else None


class Quantiser:
    """Makes INT8 graphs of one dense graph, whatever the choice of layers, from ranges that were measured once.

    Weights are int8, one scale a channel, zero at 0. Biases stay float: TensorRT takes no int32 ``DequantizeLinear``.

    Args:
        symmetric: the form that TensorRT takes: int8 with zero at 0 on the inputs of layers only, since outputs may
            feed what needs finer numbers, each pair of nodes for one reader. Otherwise the form that CPUs are fast
            with: uint8 with a free zero, on the outputs of convolutions too, through additions, and in place of the
            activations that clip. TensorRT refuses any zero but 0 ("Non-zero zero point is not supported").
    """

    def __init__(self, dense: onnx.ModelProto, ranges: TensorsData, *, symmetric: bool) -> None:
        self._dense, self._ranges, self._symmetric = dense, ranges, symmetric
        self._inferred = onnx.shape_inference.infer_shapes(dense)
        onnx.helper.set_model_props(self._inferred, INFERRED)

    def graph(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        """The dense graph with these layers in INT8."""
        model = onnx.ModelProto()
        model.CopyFrom(self._inferred)
        nodes = [name for layer in layers for name in layer.nodes]
        kinds = list(WEIGHTED)
        if not self._symmetric:
            kinds += CLIPPING
            nodes += [node.name for node in model.graph.node if node.op_type in CLIPPING]
        quantiser = QDQQuantizer(
            model,
            True,  # weights: one scale a channel
            False,  # all 8 bits of a weight
            QuantType.QInt8,
            QuantType.QInt8 if self._symmetric else QuantType.QUInt8,
            self._ranges,
            nodes,
            [],
            kinds,
            {
                "ActivationSymmetric": self._symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "DedicatedQDQPair": self._symmetric,
                # ONNX Runtime needs quantised outputs for its INT8 convolution, and none for its product
                "OpTypesToExcludeOutputQuantization": list(WEIGHTED) if self._symmetric else ["MatMul", "Gemm"],
            },
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()
        return self._restored(quantiser.model.model)

    def _restored(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """With what the dense graph says of itself, and with nodes named after the module that they serve."""
        del model.metadata_props[:], model.graph.value_info[:]
        model.metadata_props.extend(self._dense.metadata_props)
        model.producer_name, model.producer_version = self._dense.producer_name, self._dense.producer_version
        made = {tensor for node in model.graph.node for tensor in node.output}
        model.graph.value_info.extend(entry for entry in self._dense.graph.value_info if entry.name in made)
        readers = {tensor: node.name for node in reversed(model.graph.node) for tensor in node.input}
        counts: dict[str, int] = {}
        for node in reversed(model.graph.node):  # a reader is named before what feeds it
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                name = f"{readers.get(node.output[0], '').rpartition('/')[0]}/{node.op_type}"
                number = counts[name] = counts.get(name, -1) + 1
                node.name = f"{name}_{number}" if number else name
                readers.update(dict.fromkeys(node.input, node.name))
        return model
