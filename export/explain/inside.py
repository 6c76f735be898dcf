"""The inside of an artefact: any tensor of its graph before suppression, of any picture."""

import copy
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.export.explain.marks import GraphMap, dense_part
from detheads.export.precision.rounding import rounded

Values = dict[str, NDArray[Any]]

_LOW = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_FLOATS = _LOW | {onnx.TensorProto.FLOAT}


class Inside:
    """The dense part of a graph in ONNX Runtime on the CPU, with further tensors of it as outputs.

    FP16 and BF16 are rounded as their types say (:mod:`detheads.export.precision.rounding`), which the CPU does not do
    by itself. A fused operator gives no inner tensor, so what is asked for is computed unfused: in INT8 it may differ
    from the shipped graph by one rounding.

    Args:
        prefix: of the head's tensors, in a graph of several heads.
        threads: CPU threads of one run.
    """

    def __init__(self, model: onnx.ModelProto, prefix: str = "", threads: int | None = None) -> None:
        self.model = dense_part(model, prefix)
        self._threads = threads
        self._sessions: dict[tuple[str, ...], tuple[Any, list[str]]] = {}

    @cached_property
    def map(self) -> GraphMap:
        """Its tensors by the modules that they leave."""
        return GraphMap(self.model.graph)

    def is_float(self, value: str) -> bool:
        """Whether a tensor holds floats, as far as the graph tells."""
        return self._types.get(value, onnx.TensorProto.FLOAT) in _FLOATS

    def run(self, images: NDArray[Any], values: Iterable[str]) -> Values:
        """Tensors of one batch ``[B, 3, H, W]`` by name, floats as float32; what does not depend on it is left out."""
        wanted = tuple(dict.fromkeys(values))
        if wanted not in self._sessions:
            self._sessions[wanted] = self._open(wanted)
        session, asked = self._sessions[wanted]
        fed = self.model.graph.input[0]
        if fed.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:  # a host that feeds floats 0..255
            images = images.astype(np.float32)
        arrays = session.run(asked, {fed.name: images}) if asked else []
        return {
            name: np.asarray(array, np.float32) if np.issubdtype(array.dtype, np.floating) else array
            for name, array in zip(asked, arrays, strict=True)
        }

    def _open(self, wanted: Sequence[str]) -> tuple[Any, list[str]]:
        """A session with further outputs, and those of the wanted tensors that a node makes."""
        made = {output for node in self.model.graph.node for output in node.output}
        asked = [name for name in wanted if name in made]
        model = rounded(self.model) if _LOW.intersection(self._types.values()) else copy.deepcopy(self.model)
        declared = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked if name not in declared)
        return open_graph(bytes(model.SerializeToString()), threads=self._threads), asked

    @cached_property
    def _types(self) -> dict[str, int]:
        typed = onnx.shape_inference.infer_shapes(self.model).graph.value_info
        return {entry.name: entry.type.tensor_type.elem_type for entry in typed}
