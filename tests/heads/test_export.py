"""Every head in ONNX Runtime equals itself in PyTorch, on any number of threads, and compiles to an engine."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detheads.analytical.config import PRESETS
from detheads.backbones.backbone import load_backbone
from detheads.backbones.features import FeatureSpec
from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.deploy.engines.builder import build_engine
from detheads.deploy.engines.options import BatchProfile, EngineOptions
from detheads.export.graph import DetectorGraph
from detheads.export.inner import Inner, InnerGraph, differences
from detheads.export.matching import TensorDifference
from detheads.export.onnx_export import PARITY_TOLERANCE, self_check
from detheads.export.trace import OPSET, trace_dense
from detheads.foundation.manifest import ONLY_HEAD, Thresholds
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.headkit.prior import PRIOR_BIAS
from detheads.ops.decisions import recording
from detheads.ops.scores import detection_scores
from tests.export.toy import ship
from tests.heads.worlds import SPECS, random_features, small_head, with_blocks

TRACED_BATCH = 2
KINDS = [*sorted(registry.trainable()), *(f"closed_form {preset}" for preset in PRESETS)]
"""All heads, and the closed form with each preset."""


def lively_head(kind: str, spec: FeatureSpec, classes: int = 5) -> Head:
    """A head whose classes and boxes differ as those of a trained one do."""
    name, _, preset = kind.partition(" ")
    if not preset:
        head = small_head(registry.entry(name), spec, classes)
    else:
        torch.manual_seed(0)
        head = registry.build(name, spec, classes, asdict(PRESETS[preset]) | {"proposals": 40})
        with torch.no_grad():
            for tensor in (*head.parameters(), *head.buffers()):
                if tensor.dtype == torch.float32 and tensor.ndim > 1 and not tensor.any():
                    tensor.normal_(0, 0.3 / tensor.shape[-2] ** 0.5)
            head.anchors.copy_(10 + 60 * torch.rand_like(head.anchors))
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim > 1 and parameter.numel() > 1 and 0 < parameter.std() < 0.03:
                parameter.mul_(20)
            elif parameter.ndim == 1 and (parameter == PRIOR_BIAS).all():
                parameter.zero_()
    return head.eval()


class Positional(nn.Module):
    """A head whose layers are positional inputs; its outputs are dense predictions and the decisions before them."""

    def __init__(self, head: Head, names: tuple[str, ...]) -> None:
        super().__init__()
        self.head, self.names = head, names

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        with recording() as journal:
            output = self.head(dict(zip(self.names, maps, strict=True)))
        decided = [tensor for decision in journal.decisions for tensor in (decision.values, decision.choice)]
        return output.boxes, detection_scores(output.logits, output.quality), *decided


@dataclass(frozen=True)
class Traced:
    """A head in PyTorch and as an ONNX file."""

    module: Positional
    spec: FeatureSpec
    path: Path

    def found(self, batch: int, seed: int, threads: int) -> tuple[tuple[Tensor, ...], Inner]:
        """Random features, and what ONNX Runtime makes of them."""
        session = open_graph(self.path, threads=threads)
        maps = tuple(random_features(self.spec, batch, seed=seed).values())
        feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), maps, strict=True)}
        boxes, scores, *decided = session.run(None, feeds)
        tensors = [torch.from_numpy(array) for array in decided]
        return maps, Inner(boxes, scores, list(zip(tensors[::2], tensors[1::2], strict=True)))

    def difference(self, maps: tuple[Tensor, ...], found: Inner) -> TensorDifference:
        def live() -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                output = self.module.head(dict(zip(self.module.names, maps, strict=True)))
            return output.boxes, detection_scores(output.logits, output.quality)

        return differences(live, found)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Traced]:
    @cache
    def trace(kind: str, name: str) -> Traced:
        entry = registry.entry(kind.partition(" ")[0])
        name = "vit-wide" if entry.head.blocks and name.startswith("cnn") else name
        spec = with_blocks(entry, SPECS[name])
        module = Positional(lively_head(kind, spec), spec.names).eval()
        maps = tuple(random_features(spec, TRACED_BATCH).values())
        free = tuple({0: torch.export.Dim("batch", min=1)} for _ in maps)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, maps, dynamo=True, opset_version=OPSET, dynamic_shapes=(free,), verbose=False
            )
        path = tmp_path_factory.mktemp("traced") / "head.onnx"
        program.save(str(path))
        return Traced(module, spec, path)

    return trace


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["cnn-tall", pytest.param("vit-patch14", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_equals_torch_on_other_inputs_batch_sizes_and_threads(
    kind: str, name: str, traced: Callable[[str, str], Traced], threads: Callable[[int], None]
) -> None:
    head = traced(kind, name)
    for count in (1, 2):
        threads(count)
        for batch in (1, 5):
            difference = head.difference(*head.found(batch, seed=70 + batch, threads=count))
            assert difference.within(PARITY_TOLERANCE), difference


def moved(found: Inner) -> Inner:
    return replace(found, boxes=found.boxes + np.float32(1))


def scaled(found: Inner) -> Inner:
    """The largest box of the last image is a hundredth larger."""
    boxes = found.boxes.copy()
    largest = (boxes[-1, :, 2:] - boxes[-1, :, :2]).max(axis=1).argmax()
    boxes[-1, largest, 2:] += 0.01 * (boxes[-1, largest, 2:] - boxes[-1, largest, :2])
    return replace(found, boxes=boxes)


def without_the_best(found: Inner) -> Inner:
    """The best candidate of the last image is lost, and the next one is there twice."""
    boxes, scores = found.boxes.copy(), found.scores.copy()
    best = scores[-1].max(axis=1).argsort()[::-1]
    other = next(row for row in best[1:] if np.abs(boxes[-1, row] - boxes[-1, best[0]]).max() > 4)
    boxes[-1, best[0]], scores[-1, best[0]] = boxes[-1, other], scores[-1, other]
    return replace(found, boxes=boxes, scores=scores)


def with_classes_swapped(found: Inner) -> Inner:
    return replace(found, scores=found.scores[..., [1, 0, *range(2, found.scores.shape[2])]])


def with_another_choice(found: Inner) -> Inner:
    """The last decision is made as if it had read other numbers."""
    values, choice = found.decisions[-1]
    wrong = ~choice if choice.dtype == torch.bool else choice.flip(-1) + 1
    return replace(found, decisions=[*found.decisions[:-1], (values, wrong)])


def with_other_numbers(found: Inner) -> Inner:
    values, choice = found.decisions[0]
    return replace(found, decisions=[(values + 0.05 * (1 + values.abs()), choice), *found.decisions[1:]])


@pytest.mark.parametrize("fault", [moved, scaled, without_the_best, with_classes_swapped])
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_noticed(
    kind: str, fault: Callable[[Inner], Inner], traced: Callable[[str, str], Traced]
) -> None:
    head = traced(kind, "cnn-tall")
    maps, found = head.found(2, seed=1, threads=1)
    assert not head.difference(maps, fault(found)).within(PARITY_TOLERANCE)


@pytest.mark.parametrize("fault", [with_another_choice, with_other_numbers])
@pytest.mark.parametrize(
    "kind",
    ["sparse_query", "relational_corners", "centernet", "feature_graph", "compression", "threshold_prototype"]
    + [f"closed_form {preset}" for preset in PRESETS],
)
def test_a_choice_that_is_not_the_heads_own_is_noticed(
    kind: str, fault: Callable[[Inner], Inner], traced: Callable[[str, str], Traced]
) -> None:
    head = traced(kind, "cnn-tall")
    maps, found = head.found(2, seed=1, threads=1)
    assert found.decisions
    assert not head.difference(maps, fault(found)).within(PARITY_TOLERANCE)


# Random second-stage weights multiply rounding beyond the tolerance; fitted ones are exported in tests/cli.
SWEPT = [kind for kind in KINDS if kind != "closed_form refined"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SWEPT)
def test_the_self_check_of_an_export_says_the_same_on_any_threads(kind: str, threads: Callable[[int], None]) -> None:
    blocks = registry.entry(kind.partition(" ")[0]).head.blocks
    name = "timm:vit_tiny_patch16_224" if blocks else "effnet_lite0"
    encoder = load_backbone(name, (128, 160), random_weights=bool(blocks), blocks=blocks)
    head = lively_head(kind, encoder.feature_spec, 3)
    graph = DetectorGraph(encoder, head, encoder.feature_spec)
    model = trace_dense(graph)
    for count in (1, 2):
        threads(count)
        inner = InnerGraph(model, count)
        for seed in range(20):
            difference = self_check(graph, inner.run, seed=seed)[ONLY_HEAD]
            assert difference.within(PARITY_TOLERANCE), (count, seed, difference)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm:test_vit", "timm:test_convnext"])
def test_an_engine_is_built_from_pixels_to_boxes(entry: registry.Entry, backbone: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")
    if entry.head.blocks:
        if backbone != "timm:test_vit":
            pytest.skip(f"{entry.name} reads transformer blocks")
        backbone = "timm:vit_tiny_patch16_224"  # the smallest with the twelve blocks that heads count on
    encoder = load_backbone(backbone, (64, 96), random_weights=True, blocks=entry.head.blocks)
    head = small_head(entry, encoder.feature_spec)
    limits = Thresholds(max_detections=10, candidates=50)
    parity = ship(DetectorGraph(encoder, head, encoder.feature_spec), tmp_path / "model.onnx", limits)
    assert parity.batch != TRACED_BATCH
    assert parity.dense_boxes < 1e-2
    options = EngineOptions(BatchProfile(1, 2, 5))
    built = build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", options, precision="fp32")
    assert built.path.stat().st_size > 100_000
    assert built.options == options
