"""Operators that ONNX Runtime's edge providers take, as their own sources list them.

The providers are built into few packages, so that they cannot be asked on most machines. A name in a list is necessary
and not sufficient: each provider also looks at shapes, types and attributes.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class EdgeProvider:
    """A provider's list.

    Attributes:
        name: as ONNX Runtime calls it.
        operators: of ONNX's own domain.
        source: where the list stands, of which state, and when it was read.
        precisions: of bundles whose weights it computes with.
        conditions: what else it asks, for a reader.
        free_batch: it takes a graph whose batch size is free.
    """

    name: str
    operators: Set[str]
    source: str
    precisions: Set[str]
    conditions: str
    free_batch: bool


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


XNNPACK: Final = EdgeProvider(
    "XNNPACK",
    _names("AveragePool Conv ConvTranspose Gemm MatMul MaxPool Resize Softmax"),
    "onnxruntime 1b38b582, core/providers/xnnpack/xnnpack_execution_provider.cc (RegisterKernels), read 2026-11",
    frozenset({"fp32", "int8", "mixed"}),
    "weights constant, Conv on four axes with all but the batch known; a Relu or Clip right behind a Conv joins it",
    True,
)

COREML: Final = EdgeProvider(
    "CoreML",
    _names(
        "Add ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Conv ConvTranspose Cos DepthToSpace Div "
        "Elu Erf Exp Flatten Gather GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool GridSample "
        "GroupNormalization HardSigmoid Identity InstanceNormalization LRN LayerNormalization LeakyRelu MatMul Max "
        "MaxPool Mul PRelu Pad Pow Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu "
        "Reshape Resize Round Shape Sigmoid Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Tanh Tile Transpose "
        "Unsqueeze"
    ),
    "onnxruntime 04f568d8, core/providers/coreml/builders/op_builder_factory.cc, read 2026-11",
    frozenset({"fp32", "fp16"}),
    "model format MLProgram; the older NeuralNetwork takes fewer; with MLProgram it may compute in float16",
    True,
)

QNN: Final = EdgeProvider(
    "QNN",
    _names(
        "Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip Concat Conv "
        "ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Exp Expand Flatten Floor "
        "Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual "
        "GridSample HardSigmoid HardSwish InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Less "
        "LessOrEqual Log LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mod Mul Neg Not Or PRelu Pad Pow "
        "QuantizeLinear RMSNormalization RandomUniformLike Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum Relu Reshape Resize Round STFT ScatterElements ScatterND Sigmoid Sign Sin Slice "
        "Softmax SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze "
        "Upsample Where"
    ),
    "onnxruntime 00cd7c6d, core/providers/qnn/builder/op_builder_factory.cc, read 2026-11",
    frozenset({"fp32", "fp16", "int8", "mixed"}),
    "all shapes known; the HTP backend is made for int8, and computes float graphs in float16",
    False,
)

EDGE_PROVIDERS: Final = (XNNPACK, COREML, QNN)

FOLDED: Final = frozenset({"Constant", "Identity"})
"""Gone before a provider is asked: ONNX Runtime's own optimisation removes them."""
