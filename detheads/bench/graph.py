"""What takes the time in a shipped graph on a CPU: kinds of operators, and suppression as a whole."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.utils import Extractor

from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.deploy.runtime import load_onnxruntime
from detheads.deploy.session import CPU
from detheads.export.names import DENSE_NAMES, INPUT_NAME
from detheads.foundation.bundle import onnx_file, read_manifest
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.images import load_image
from detheads.foundation.progress import Progress, silent
from detheads.foundation.timing import take_turns

PRODUCTS = frozenset({"Conv", "ConvTranspose", "FusedConv", "FusedMatMul", "Gemm", "MatMul"})
"""Convolutions and matrix products, under the names that ONNX Runtime's optimiser gives them too."""

KERNEL = "_kernel_time"
"""How ONNX Runtime's profiler ends the name of the event that times a node's computation."""


@dataclass(frozen=True)
class GraphBench:
    """One picture through a graph in ONNX Runtime on the CPU.

    All times are the least of the rounds: whatever else the machine does only adds to them, and a difference of medians
    would show that.

    Attributes:
        nodes: of the whole graph, loops' bodies included.
        suppression_nodes: those of them behind the dense predictions.
        milliseconds: of a run of the whole graph.
        suppression: milliseconds of that behind the dense predictions.
        detections: rows found in the picture.
        kinds: milliseconds by operator up to the dense predictions, largest first.
        share: of convolutions and matrix products in the sum of both.
    """

    threads: int
    rounds: int
    nodes: int
    suppression_nodes: int
    milliseconds: float
    suppression: float
    detections: int
    kinds: Mapping[str, float]
    share: float


def bench_graph(
    bundle: Path, picture: Path | None = None, threads: int = 1, rounds: int = 40, on_progress: Progress = silent
) -> GraphBench:
    """Time a bundle's graph on a picture (seeded noise when None).

    Raises:
        UserError: when the bundle or the picture cannot be read.
    """
    manifest = read_manifest(bundle)
    height, width = manifest.input.height, manifest.input.width
    model = onnx.load_model(str(onnx_file(bundle, manifest)))
    names = {output for node in model.graph.node for output in node.output}
    dense = Extractor(model).extract_model([INPUT_NAME], [name for name in names if name.endswith(DENSE_NAMES)])
    feeds = {INPUT_NAME: _pixels(picture, height, width)}
    on_progress("timing", 0, 0)
    whole, part = (open_graph(bytes(each.SerializeToString()), threads=threads) for each in (model, dense))
    contenders = {"whole": lambda: whole.run(None, feeds), "dense": lambda: part.run(None, feeds)}
    timing = take_turns([contenders] * (rounds + 3), warm_up=3)
    milliseconds, until_dense = (1000 * min(timing.seconds[name]) for name in ("whole", "dense"))
    suppression = max(0.0, milliseconds - until_dense)
    kinds = _profile(dense, feeds, threads, rounds)
    scores = [found for found, output in zip(whole.run(None, feeds), model.graph.output, strict=True)
              if output.name.endswith("scores")]  # fmt: skip
    products = sum(spent for kind, spent in kinds.items() if kind in PRODUCTS)
    nodes = count_nodes(model.graph)
    return GraphBench(
        threads=threads,
        rounds=rounds,
        nodes=nodes,
        suppression_nodes=nodes - count_nodes(dense.graph),
        milliseconds=milliseconds,
        suppression=suppression,
        detections=sum(int((table > 0).sum()) for table in scores),
        kinds=kinds,
        share=products / (sum(kinds.values()) + suppression),
    )


def count_nodes(graph: onnx.GraphProto) -> int:
    """Nodes of a graph and of the graphs inside them."""
    inner = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    return len(graph.node) + sum(count_nodes(each) for each in inner)


def _profile(model: onnx.ModelProto, feeds: dict[str, Any], threads: int, rounds: int) -> dict[str, float]:
    """Milliseconds of each kind of operator, by ONNX Runtime's own profiler."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.enable_profiling = 3, True
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
        for _ in range(rounds):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            spent[event["args"]["op_name"], event["name"]].append(event["dur"])
    kinds: Counter[str] = Counter()
    for (kind, _), microseconds in spent.items():
        kinds[kind] += min(microseconds) / 1000  # type: ignore[assignment]  # Counter also adds floats
    return dict(kinds.most_common())


def _pixels(picture: Path | None, height: int, width: int) -> NDArray[np.uint8]:
    if picture is None:
        return np.random.default_rng(0).integers(0, 256, (1, 3, height, width), dtype=np.uint8)
    array, _ = letterbox_image(load_image(picture), width, height)
    return np.ascontiguousarray(array.transpose(2, 0, 1)[None])
