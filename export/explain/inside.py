"""The inside of an artefact: any tensor of its graph before suppression, of any picture."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.export.explain.marks import GraphMap, dense_part

Values = dict[str, NDArray[Any]]

_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


class Inside:
    """The dense part of a graph in ONNX Runtime on the CPU, with further tensors of it as outputs.

    A fused operator gives no inner tensor, so what is asked for is computed unfused: in INT8 and FP16 it may differ
    from the shipped graph by one rounding.

    Args:
        prefix: of the head's tensors, in a graph of several heads.
        threads: CPU threads of one run.
    """

    def __init__(self, model: onnx.ModelProto, prefix: str = "", threads: int | None = None) -> None:
        self.model = dense_part(model, prefix)
        self._threads = threads
        self._sessions: dict[tuple[str, ...], tuple[Any, dict[str, str]]] = {}

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
        arrays = session.run(list(asked.values()), {fed.name: images}) if asked else []
        return {
            name: np.asarray(array, np.float32) if np.issubdtype(array.dtype, np.floating) else array
            for name, array in zip(asked, arrays, strict=True)
        }

    def _open(self, wanted: Iterable[str]) -> tuple[Any, dict[str, str]]:
        """A session with further outputs, and the output's name of each tensor."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        made = {output for node in graph.node for output in node.output}
        declared = {output.name for output in graph.output}
        asked = {}
        for name in wanted:
            if name not in made:
                continue
            asked[name] = name
            if self._types.get(name) == onnx.TensorProto.BFLOAT16:  # numpy has no such type
                asked[name] = f"{name}/float"
                graph.node.append(onnx.helper.make_node("Cast", [name], [asked[name]], to=onnx.TensorProto.FLOAT))
            if asked[name] not in declared:
                graph.output.append(onnx.ValueInfoProto(name=asked[name]))
        return open_graph(bytes(model.SerializeToString()), threads=self._threads), asked

    @cached_property
    def _types(self) -> dict[str, int]:
        typed = onnx.shape_inference.infer_shapes(self.model).graph.value_info
        return {entry.name: entry.type.tensor_type.elem_type for entry in typed}
