"""NVIDIA Triton, KServe and OpenVINO Model Server: a model repository with the bundle's graph, batched.

Triton wants a batch axis on every output and a ``config.pbtxt``; OpenVINO Model Server reads ``NAME/1/model.onnx``
alone. Both take the tree ``profiles/triton`` as their repository, over the Open Inference Protocol.
"""

import re
from typing import Final

import onnx
from onnx import TensorProto

from detheads.export.profiles.profile import Built, Profile, Request, label_file

TYPES: Final[dict[int, str]] = {
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.FLOAT: "TYPE_FP32",
}
"""Names of ``model_config.proto``."""


class Triton(Profile):
    """Servers do nothing to a tensor: the client letterboxes the picture."""

    name = "triton"
    host = "NVIDIA Triton, KServe, OpenVINO Model Server"

    def build(self, request: Request) -> Built:
        """``NAME/config.pbtxt``, ``NAME/labels.txt`` and ``NAME/1/model.onnx``."""
        model = model_name(request.name)
        texts = {
            f"{model}/config.pbtxt": configuration(model, request.final, request.largest_batch),
            f"{model}/labels.txt": label_file(request.classes),
        }
        return Built(request.final, f"{model}/1/model.onnx", texts, {})


def model_name(bundle: str) -> str:
    """The bundle's name in letters that addresses of servers take."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", bundle).strip("._-") or "detector"


def configuration(name: str, model: onnx.ModelProto, largest_batch: int) -> str:
    """``config.pbtxt`` of a graph whose first axis is the batch everywhere; that axis is left out of ``dims``."""

    def tensors(entries: list[onnx.ValueInfoProto], further: str) -> str:
        return ",\n".join(
            f'  {{ name: "{entry.name}" data_type: {TYPES[entry.type.tensor_type.elem_type]}{further} dims: '
            f"[ {', '.join(str(size.dim_value) for size in entry.type.tensor_type.shape.dim[1:])} ] }}"
            for entry in entries
        )

    return (
        f'name: "{name}"\n'
        'platform: "onnxruntime_onnx"\n'
        f"max_batch_size: {largest_batch}\n"
        f"input [\n{tensors(list(model.graph.input), ' format: FORMAT_NCHW')}\n]\n"
        f"output [\n{tensors(list(model.graph.output), '')}\n]\n"
        f"dynamic_batching {{ }}\n"
    )


PROFILE = Triton()
