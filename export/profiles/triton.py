"""NVIDIA Triton, KServe and OpenVINO Model Server: a model repository with the bundle's graph, batched.

Triton wants a batch axis on every output and a ``config.pbtxt``; OpenVINO Model Server reads ``NAME/1/model.onnx``
alone. Both take the tree ``profiles/triton`` as their repository, over the Open Inference Protocol.
"""

from collections.abc import Iterable

import onnx

from detheads.deploy.hosts.labels import label_file
from detheads.deploy.hosts.triton_config import FILES, ONNX, Scheduling, configuration, model_name
from detheads.export.profiles.profile import Built, Profile, Request
from detheads.foundation.onnx_summary import TYPES, TensorInfo


class Triton(Profile):
    """Servers do nothing to a tensor: the client letterboxes the picture."""

    name = "triton"
    host = "NVIDIA Triton, KServe, OpenVINO Model Server"

    def build(self, request: Request) -> Built:
        """``NAME/config.pbtxt``, ``NAME/labels.txt`` and ``NAME/1/model.onnx``."""
        model, graph = model_name(request.name), request.final.graph
        scheduling = Scheduling(request.largest_batch)
        texts = {
            f"{model}/config.pbtxt": configuration(
                model, ONNX, described(graph.input), described(graph.output), scheduling
            ),
            f"{model}/labels.txt": label_file(request.classes),
        }
        return Built(request.final, f"{model}/1/{FILES[ONNX]}", texts, {})


def described(entries: Iterable[onnx.ValueInfoProto]) -> list[TensorInfo]:
    """Inputs or outputs whose first axis is the batch."""
    kinds = [(entry.name, entry.type.tensor_type) for entry in entries]
    return [
        TensorInfo(name, TYPES[kind.elem_type], ("batch", *(size.dim_value for size in kind.shape.dim[1:])))
        for name, kind in kinds
    ]


PROFILE = Triton()
