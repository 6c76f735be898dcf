"""How long a head takes in ONNX Runtime, apart from its backbone."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.export.trace import OPSET, quiet
from detheads.foundation.timing import take_turns
from detheads.headkit.contract import Head
from detheads.ops.scores import detection_scores

WARM_UP = 3
RUNS = 15


class DenseHead(nn.Module):
    """A head from its layers, in the order of ``spec``, to decoded boxes ``[B, N, 4]`` and scores ``[B, N, K]``."""

    def __init__(self, head: Head, spec: FeatureSpec) -> None:
        super().__init__()
        self.head, self.names = head.eval(), spec.names

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        output = self.head(dict(zip(self.names, maps, strict=True)))
        return output.boxes, detection_scores(output.logits, output.quality)


def head_milliseconds(head: Head, spec: FeatureSpec, threads: int = 1) -> float:
    """Median time of one image through the head and its decoding in ONNX Runtime on the CPU, in milliseconds.

    Without backbone and suppression, which are the same for every head of one cache.

    Raises:
        RuntimeError: when the head cannot be traced.
    """
    maps = tuple(
        torch.randn(1, layer.channels, spec.height // layer.stride, spec.width // layer.stride) for layer in spec.layers
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        with torch.no_grad(), quiet():
            program = torch.onnx.export(DenseHead(head, spec), maps, dynamo=True, opset_version=OPSET, verbose=False)
        if program is None:
            raise RuntimeError("torch.onnx gave no graph")
        program.save(str(path))
        session = open_graph(path, threads=threads)
    # A layer that the head does not read is no input of the graph.
    by_position = {f"maps_{index}": values.numpy() for index, values in enumerate(maps)}
    feeds = {entry.name: by_position[entry.name] for entry in session.get_inputs()}
    rounds = [{"head": lambda: session.run(None, feeds)}] * (WARM_UP + RUNS)
    return 1000.0 * take_turns(rounds, warm_up=WARM_UP).median("head")
