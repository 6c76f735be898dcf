"""The closed-form head keeps the contract of all heads, in each of its configurations, in PyTorch and ONNX Runtime."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.config import PRESETS
from detheads.analytical.first_stage import Discriminant, Mixture
from detheads.analytical.refinement import Round, vote
from detheads.backbones.backbone import load_backbone
from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.deploy.engines.builder import build_engine
from detheads.deploy.engines.options import BatchProfile, EngineOptions
from detheads.export.graph import DetectorGraph
from detheads.export.trace import OPSET
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Thresholds
from detheads.headkit import registry
from detheads.headkit.blocks import join_main
from detheads.ops.cofiber import decompose, low_passes
from tests.export.toy import ship
from tests.heads.test_export import TRACED_BATCH, Positional
from tests.heads.worlds import CLASSES, SPECS, random_features

REFINED = {"view": "context", "directions": "per_level", "components": 6, "rounds": 2, "proposals": 25, "grid": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "reference": {},
    "per-level": {"directions": "per_level"},
    "soft-anchors": {"anchor": "soft"},
    "gmm": {"classifier": "gmm"},
    "three-levels": {"levels": 3},
    "context": {"view": "context", "components": 6},
    "bands-with-a-round": {"components": 4, "rounds": 1, "proposals": 30},
    "refined": REFINED,
    "hidden": REFINED | {"hidden": 10},
    "voting": REFINED | {"voting": 0.6},
}


def _random_head(spec: FeatureSpec, config: dict[str, Any], classes: int = CLASSES, seed: int = 0) -> ClosedForm:
    """A head with seeded values in all that a fit fills in, of a size that keeps boxes and logits in use."""
    head = registry.build("closed_form", spec, classes, config).eval()
    assert isinstance(head, ClosedForm)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in head.state_dict(keep_vars=True).items():
            fan_in = value.shape[-2] if name.endswith("weight") and value.dim() > 1 else 1
            value.copy_(torch.randn(value.shape, generator=generator) / math.sqrt(fan_in))
        head.anchors.copy_(16 + 40 * torch.rand(head.anchors.shape, generator=generator))
        if isinstance(head.classifier, Mixture):
            head.classifier.whitening /= math.sqrt(head.dimensions)
        if head.config.compressed:
            head.components /= math.sqrt(len(head.components))
    return head.requires_grad_(False)


@pytest.fixture(params=sorted(CONFIGS))
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CONFIGS[request.param]


@pytest.fixture(params=sorted(SPECS))
def spec(request: pytest.FixtureRequest) -> FeatureSpec:
    return SPECS[request.param]


# Size and names


def test_the_source_s_detector_has_its_published_number_of_parameters() -> None:
    spec = FeatureSpec((FeatureLayer("last", 768, 16),), ("last",), 768, 768)
    head = registry.build("closed_form", spec, 1)
    assert sum(parameter.numel() for parameter in head.parameters()) == 104_854


def test_the_defaults_are_the_reference_preset_and_refined_is_another() -> None:
    entry = registry.entry("closed_form")
    assert registry.make_config(entry, {}) == PRESETS["reference"]
    assert PRESETS["refined"] != PRESETS["reference"]


def test_it_stands_in_the_list_of_heads_but_not_among_those_that_are_trained(detheads: Callable[..., Any]) -> None:
    rows = {row["name"]: row for row in json.loads(detheads("heads", "list", "--classes", 1, "--json").out)}
    assert rows["closed_form"]["parameters"] == 104_854
    assert not rows["closed_form"]["nms_free"]
    assert "closed_form" not in registry.trainable()


# Contract


def test_output_fits_the_contract(config: dict[str, Any], spec: FeatureSpec) -> None:
    head = _random_head(spec, config)
    output = head(random_features(spec, 3))
    stride = 14 if spec.layers[0].stride == 14 else 16
    strides = [stride * 2**level for level in range(config.get("levels", 5))]
    cells = sum(math.ceil(spec.height / each) * math.ceil(spec.width / each) for each in strides)
    candidates = min(cells, head.config.proposals) if head.config.rounds else cells
    assert output.boxes.shape == (3, candidates, 4)
    assert output.logits.shape == (3, candidates, CLASSES)
    assert output.quality is None
    assert output.boxes.dtype == output.logits.dtype == torch.float32


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_output_is_finite_and_boxes_are_not_inside_out_whatever_the_features(
    config: dict[str, Any], spec: FeatureSpec, scale: float
) -> None:
    output = _random_head(spec, config)(random_features(spec, 2, scale=scale))
    assert torch.isfinite(output.boxes).all()
    assert torch.isfinite(output.logits).all()
    assert (output.boxes[..., 2:] >= output.boxes[..., :2]).all()


def test_a_batch_equals_its_images_one_by_one(config: dict[str, Any], spec: FeatureSpec) -> None:
    head, features = _random_head(spec, config), random_features(spec, 3)
    together = head(features)
    for row in range(3):
        alone = head({name: values[row : row + 1] for name, values in features.items()})
        torch.testing.assert_close(alone.boxes[0], together.boxes[row], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-3, rtol=1e-4)


def test_the_image_decides_boxes_and_logits(config: dict[str, Any]) -> None:
    spec = SPECS["cnn-tall"]
    head = _random_head(spec, config)
    first, second = head(random_features(spec, 1, seed=1)), head(random_features(spec, 1, seed=2))
    assert not torch.allclose(first.logits, second.logits)
    assert not torch.allclose(first.boxes, second.boxes)


def test_weights_load_into_a_head_rebuilt_from_its_recorded_configuration(
    config: dict[str, Any], spec: FeatureSpec
) -> None:
    original = _random_head(spec, config, seed=9)
    recorded = json.loads(json.dumps(registry.config_dict(registry.entry("closed_form"), config)))
    rebuilt = registry.build("closed_form", spec, CLASSES, recorded).eval()
    rebuilt.load_state_dict(original.state_dict(), strict=True)
    features = random_features(spec, 1)
    assert torch.equal(rebuilt(features).boxes, original(features).boxes)
    assert torch.equal(rebuilt(features).logits, original(features).logits)


def test_a_single_cell_is_enough(config: dict[str, Any]) -> None:
    spec = FeatureSpec((FeatureLayer("last", 8, 16),), ("last",), 16, 16)
    output = _random_head(spec, config)(random_features(spec, 1))
    assert torch.isfinite(output.boxes).all()
    assert torch.isfinite(output.logits).all()


def test_there_is_no_loss_to_descend() -> None:
    spec = SPECS["vit-square"]
    head = _random_head(spec, {})
    with pytest.raises(UserError, match="detheads analytical fit"):
        head.loss(head(random_features(spec, 1)), [])


# What is computed


@pytest.mark.parametrize("name", ["vit-wide", "cnn-tall"])
def test_the_first_stage_equals_its_formulas_cell_by_cell(name: str) -> None:
    spec = SPECS[name]
    head, features = _random_head(spec, {}), random_features(spec, 1)
    boxes, logits = head.proposals(features)
    assert isinstance(head.classifier, Discriminant)
    cell = 0
    for level, band in enumerate(decompose(join_main(features, spec), 5)):
        for y in range(band.shape[2]):
            for x in range(band.shape[3]):
                row, center = band[0, :, y, x], torch.tensor([x + 0.5, y + 0.5]) * 16 * 2**level
                wanted = head.classifier.weight[0].T @ row + head.classifier.bias[0]
                torch.testing.assert_close(logits[0, cell], wanted, atol=1e-4, rtol=1e-4)
                inputs = torch.cat((row, center / torch.tensor([spec.width, spec.height]) - 0.5))
                anchor = int((inputs @ head.anchor_weight[level] + head.anchor_bias[level]).argmax())
                offsets = (inputs @ head.box_weight + head.box_bias)[4 * anchor : 4 * anchor + 4].clamp(-2, 2)
                middle = center + offsets[:2] * head.anchors[anchor]
                half = head.anchors[anchor] * offsets[2:].exp() / 2
                torch.testing.assert_close(boxes[0, cell], torch.cat((middle - half, middle + half)), atol=1e-2, rtol=0)
                cell += 1
    assert cell == boxes.shape[1]


def test_soft_anchors_are_the_mean_of_all_boxes_weighted_by_their_shares() -> None:
    spec = SPECS["vit-square"]
    head, features = _random_head(spec, {"anchor": "soft", "levels": 1}), random_features(spec, 1)
    boxes, _ = head.proposals(features)
    rows = torch.cat((join_main(features, spec)[0].flatten(1).T, head.places()), dim=1)
    shares = (rows @ head.anchor_weight[0] + head.anchor_bias[0]).clamp(min=1e-6)
    for cell, row in enumerate(rows):
        total = torch.zeros(4)
        for anchor in range(15):
            offsets = (row @ head.box_weight + head.box_bias)[4 * anchor : 4 * anchor + 4].clamp(-2, 2)
            middle, half = (
                head.points[cell] + offsets[:2] * head.anchors[anchor],
                head.anchors[anchor] * offsets[2:].exp() / 2,
            )
            total += shares[cell, anchor] * torch.cat((middle - half, middle + half))
        torch.testing.assert_close(boxes[0, cell], total / shares[cell].sum(), atol=1e-2, rtol=1e-4)


def test_context_sees_the_components_of_the_averaged_map() -> None:
    """The components are taken before averaging, which is cheaper; the other order gives the same."""
    spec = SPECS["cnn-tall"]
    head, features = _random_head(spec, CONFIGS["context"]), random_features(spec, 2)
    for level, rows in zip(low_passes(join_main(features, spec), 5), head.level_rows(features), strict=True):
        projected = torch.einsum("bchw,cp->bphw", level - head.center[:, None, None], head.components)
        own = rows.transpose(1, 2).unflatten(1, (9, 6))[:, 4]  # the middle one of nine cells
        torch.testing.assert_close(own, projected.flatten(2), atol=1e-4, rtol=1e-4)


def test_random_features_are_rectified_products_beside_the_inputs() -> None:
    stage = Round(inputs=4, num_classes=2, hidden=3)
    generator = torch.Generator().manual_seed(0)
    for value in stage.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator))
    inputs = torch.randn(2, 5, 4, generator=generator)
    rows = stage.expand(inputs)
    assert torch.equal(rows[..., :4], inputs)
    torch.testing.assert_close(rows[..., 4:], (inputs @ stage.random_weight + stage.random_bias).clamp(min=0))
    scores, offsets = stage(inputs)
    torch.testing.assert_close(scores, rows @ stage.score_weight + stage.score_bias)
    torch.testing.assert_close(offsets, rows @ stage.offset_weight + stage.offset_bias)


def test_rounds_start_from_the_best_cells_and_end_inside_the_input() -> None:
    spec = SPECS["vit-wide"]
    head, features = _random_head(spec, REFINED), random_features(spec, 2, seed=3)
    boxes, logits = head.proposals(features)
    chosen, scores = head.rounds.best(boxes, logits)
    for image in range(2):
        order = logits[image].amax(dim=1).argsort(descending=True)[:25]
        torch.testing.assert_close(scores[image], logits[image, order])
        limits = torch.tensor([spec.width, spec.height] * 2)
        inside = boxes[image, order].clamp(min=0).minimum(limits)
        whole = ((inside[:, 2:] - inside[:, :2]) >= 1).all(dim=1)
        torch.testing.assert_close(chosen[image][whole], inside[whole])
    final = head(features).boxes
    assert (final >= 0).all()
    assert (final <= torch.tensor([spec.width, spec.height] * 2)).all()
    assert (final[..., 2:] - final[..., :2] >= 1 - 1e-4).all()


def test_scores_of_the_last_round_are_predicted_ious() -> None:
    spec = SPECS["vit-wide"]
    head, features = _random_head(spec, REFINED), random_features(spec, 2)
    _, scores = head.refined(features, *head.proposals(features))
    torch.testing.assert_close(head(features).logits.sigmoid(), scores.clamp(1e-4, 1 - 1e-4), atol=1e-6, rtol=1e-3)


def test_voting_moves_the_boxes_and_leaves_the_scores() -> None:
    spec = SPECS["vit-wide"]
    plain, voting = _random_head(spec, REFINED), _random_head(spec, REFINED | {"voting": 0.5})
    features = random_features(spec, 2)
    wanted, found = plain(features), voting(features)
    assert torch.equal(wanted.logits, found.logits)
    assert not torch.allclose(wanted.boxes, found.boxes)
    assert torch.equal(found.boxes, vote(wanted.boxes, wanted.logits.sigmoid().amax(dim=2), 0.5))


# Options that cannot be


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rounds": 1}, "components belong to"),
        ({"view": "context"}, "components belong to"),
        ({"components": 8}, "components belong to"),
        ({"levels": 0}, "levels of head closed_form must be a whole number above 0, not 0"),
        ({"voting": 1.5}, "voting of head closed_form must be a number from 0 to 1, not 1.5"),
        (REFINED | {"proposals": 0}, "proposals of head closed_form must be a whole number above 0"),
        (REFINED | {"grid": 0}, "grid of head closed_form must be a whole number above 0"),
        ({"view": "sideways"}, "must be one of bands, context, not sideways"),
        ({"componets": 3}, "has no option 'componets'"),
        ({"rounds": -1}, "must be a whole number of 0 or more, not -1"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        registry.build("closed_form", SPECS["vit-square"], 1, options)
    assert "\n" not in str(caught.value)


# Other runtimes


def _slow_unless(names: set[str]) -> list[Any]:
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in sorted(CONFIGS)]


@pytest.mark.parametrize("name", _slow_unless({"reference"}))
def test_onnx_equals_torch_on_other_inputs_and_batch_sizes(name: str, tmp_path: Path) -> None:
    spec = SPECS["cnn-tall"]
    module = Positional(_random_head(spec, CONFIGS[name]), spec.names).eval()
    traced = tuple(random_features(spec, TRACED_BATCH).values())
    free = tuple({0: torch.export.Dim("batch", min=1)} for _ in traced)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, traced, dynamo=True, opset_version=OPSET, dynamic_shapes=(free,), verbose=False
        )
    program.save(str(tmp_path / "head.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "head.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        maps: tuple[Tensor, ...] = tuple(random_features(spec, batch, seed=70 + batch).values())
        wanted = module(*maps)
        feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), maps, strict=True)}
        for found, tensor in zip(session.run(None, feeds), wanted, strict=True):
            assert found.shape == tuple(tensor.shape)
            np.testing.assert_allclose(found, tensor.numpy(), rtol=1e-3, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reference", "gmm", "soft-anchors", "hidden", "voting"])
def test_an_engine_is_built_from_pixels_to_boxes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")
    encoder = load_backbone("timm:test_vit", (64, 96), random_weights=True)
    head = _random_head(encoder.feature_spec, CONFIGS[name])
    limits = Thresholds(max_detections=10, candidates=50)
    parity = ship(DetectorGraph(encoder, head, encoder.feature_spec), tmp_path / "model.onnx", limits)
    assert parity.batch != TRACED_BATCH
    assert parity.dense_boxes < 1e-2
    options = EngineOptions(BatchProfile(1, 2, 5))
    built = build_engine(tmp_path / "model.onnx", tmp_path / "model.engine", options, precision="fp32")
    assert built.path.stat().st_size > 50_000
    assert built.options == options
