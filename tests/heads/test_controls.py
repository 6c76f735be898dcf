"""Heads without an idea of theirs keep the contract and are exported with proof; a sentence says how to refute it."""

import sys
import warnings
from typing import Any

import pytest

from detheads.backbones.backbone import load_backbone
from detheads.export.graph import DetectorGraph
from detheads.export.onnx_export import check_parity
from detheads.export.trace import trace_dense
from detheads.headkit import checks, registry
from detheads.headkit.checks import Case
from tests.heads.worlds import CLASSES, SPECS, small_config, with_blocks

CONTROLS = [(name, idea) for name, found in registry.trainable().items() for idea in found.head.controls]


def _options(name: str, idea: str) -> dict[str, Any]:
    """A narrow head without that idea."""
    entry = registry.entry(name)
    off = entry.head.controls[idea].options
    narrow = {option: min(value, 16) for option, value in off.items() if type(value) is int}
    return small_config(entry) | dict(off) | narrow


def _case(name: str, idea: str) -> Case:
    entry = registry.entry(name)
    return Case(entry, "these", with_blocks(entry, SPECS["vit-square"]), CLASSES, _options(name, idea))


@pytest.mark.parametrize(("name", "idea"), CONTROLS)
def test_a_head_without_an_idea_detects_and_learns_with_all_that_is_left(name: str, idea: str) -> None:
    checks.has_right_shapes(_case(name, idea))
    checks.teaches_every_parameter(_case(name, idea))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "idea"), CONTROLS)
def test_a_head_without_an_idea_keeps_the_whole_contract(name: str, idea: str) -> None:
    for check in checks.CHECKS.values():
        check(_case(name, idea))


@pytest.mark.parametrize("name", sorted({name for name, _ in CONTROLS}))
def test_a_head_names_the_command_that_would_refute_it(name: str) -> None:
    about = " ".join((sys.modules[registry.entry(name).head.__module__].__doc__ or "").split())
    refuted = about.partition("Refuted")[2]
    assert f"``detheads arena run --heads {name} --with-controls" in refuted
    for control in registry.entry(name).head.controls.values():
        assert any(f"``{option}" in refuted for option in str(control).split()), str(control)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "idea"), CONTROLS)
def test_a_head_without_an_idea_is_exported_with_proof(name: str, idea: str) -> None:
    blocks = registry.entry(name).head.blocks
    backbone = "timm:vit_tiny_patch16_224" if blocks else "timm:test_convnext"
    encoder = load_backbone(backbone, (64, 96), random_weights=True, blocks=blocks)
    head = registry.build(name, encoder.feature_spec, 3, _options(name, idea)).eval()
    graph = DetectorGraph(encoder, head, encoder.feature_spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_parity(graph, trace_dense(graph))
