"""Building heads by name, with checked options, and what they cost."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.headkit.cost import measure, parameters_of
from detheads.headkit.options import to_text
from tests.heads.worlds import random_features, small_config, small_head, with_blocks

BASE = FeatureSpec((FeatureLayer("last", 768, 16),), ("last",), 768, 768)
NARROW = FeatureSpec((FeatureLayer("last", 32, 16),), ("last",), 96, 160)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "heads.md"
PUBLISHED = {
    name: int(count.replace(",", ""))
    for name, count in re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
}


def test_default_heads_have_the_published_number_of_parameters(entry: registry.Entry) -> None:
    head = registry.build(entry.name, with_blocks(entry, BASE), 80)
    assert parameters_of(head) == sum(parameter.numel() for parameter in head.parameters()) == PUBLISHED[entry.name]


def test_the_reference_detectors_have_their_sources_number_of_parameters() -> None:
    assert (PUBLISHED["fcos"], PUBLISHED["split_tower"]) == (16_138_074, 2_975_067)


def test_every_head_has_a_summary_and_options_with_defaults(entry: registry.Entry) -> None:
    assert entry.summary.endswith(".")
    assert None not in registry.defaults(entry).values()
    assert isinstance(entry.head.nms_free, bool)


def test_configuration_survives_the_round_trip_through_text(entry: registry.Entry) -> None:
    defaults = registry.config_dict(entry, {})
    assert defaults == registry.defaults(entry)
    as_text = {name: str(value) for name, value in defaults.items()}
    assert registry.config_dict(entry, as_text) == defaults
    small = registry.config_dict(entry, small_config(entry))
    assert small != defaults
    assert registry.config_dict(entry, small) == small


def test_smaller_options_never_cost_more_and_some_cost_less(entry: registry.Entry) -> None:
    full = parameters_of(registry.build(entry.name, with_blocks(entry, BASE), 80))
    halved = {
        name: parameters_of(registry.build(entry.name, with_blocks(entry, BASE), 80, {name: value // 2}))
        for name, value in registry.defaults(entry).items()
        if type(value) is int and value > 1
    }
    small = parameters_of(registry.build(entry.name, with_blocks(entry, BASE), 80, small_config(entry)))
    assert halved
    assert all(count <= full for count in halved.values()), halved
    assert min(halved.values()) < full
    assert small < 0.6 * full


def test_unknown_option_is_one_sentence_with_the_known_ones(entry: registry.Entry) -> None:
    with pytest.raises(UserError, match=f"head {entry.name} has no option 'colour'; it has ") as raised:
        registry.build(entry.name, with_blocks(entry, NARROW), 3, {"colour": 1})
    assert all(name in str(raised.value) for name in registry.defaults(entry))


def test_a_value_that_is_not_allowed_is_one_sentence(entry: registry.Entry) -> None:
    """Of the wrong type, text that reads as none of it, or beyond the bounds."""
    may_be = registry.bounds(entry)
    for name, default in registry.defaults(entry).items():
        wrong: dict[type, tuple[object, ...]] = {
            int: ("seven", "1.5", 1.5, True, None, -1, "-8"),
            float: ("half", "nan", float("inf"), True, None, -0.5, "-0.5"),
            str: (17, "sideways", None),
            bool: ("perhaps", 1, 0.5, None),
        }
        for value in wrong[type(default)]:
            expected = f"option {name} of head {entry.name} must be {may_be[name]}, not {to_text(value)}."
            with pytest.raises(UserError) as raised:
                registry.make_config(entry, {name: value})
            assert str(raised.value) == expected


def test_an_option_of_zero_is_refused_or_the_head_works(entry: registry.Entry) -> None:
    """Of some options (numbers of blocks) zero is a fair value."""
    spec = with_blocks(entry, NARROW)
    sizes = [name for name, default in registry.defaults(entry).items() if type(default) is int]
    refused = 0
    for name in sizes:
        try:
            head = registry.build(entry.name, spec, 3, small_config(entry) | {name: 0})
        except UserError as error:
            assert f"option {name} of head {entry.name} must be a whole number " in str(error)
            refused += 1
        else:
            assert torch.isfinite(head(random_features(spec, 2)).boxes).all()
    assert refused >= 1


@pytest.mark.parametrize(("typed", "meant"), [("fcoss", "fcos"), ("split-tower", "split_tower"), ("FCOS ", "fcos")])
def test_unknown_head_suggests_close_names(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"unknown head '{typed}'; did you mean .*{meant}"):
        registry.entry(typed)


def test_unknown_head_that_is_like_none_lists_all() -> None:
    with pytest.raises(UserError) as raised:
        registry.entry("qqqq")
    assert all(name in str(raised.value) for name in registry.entries())


def test_cost_counts_what_the_head_really_has_and_does(entry: registry.Entry) -> None:
    head = small_head(entry, NARROW)
    spec = with_blocks(entry, NARROW)
    output = head(random_features(spec, 1))
    expected = sum(parameter.numel() for parameter in head.parameters())
    cost = measure(head, spec)
    assert (cost.parameters, cost.candidates) == (expected, output.boxes.shape[1])
    assert cost.flops > 2 * 60 * 32  # at the very least every value of the map is multiplied once


def test_flops_grow_with_the_area_of_the_input(entry: registry.Entry, build: Callable[..., Head]) -> None:
    sides = (FeatureSpec(NARROW.layers, NARROW.main, side, side) for side in (128, 256))
    small, large = (with_blocks(entry, spec) for spec in sides)
    ratio = measure(build(large, 3), large).flops / measure(build(small, 3), small).flops
    assert 3.0 < ratio < 4.5


def test_embeddings_are_refused_in_one_sentence_by_heads_without_text(entry: registry.Entry) -> None:
    head = small_head(entry, NARROW, classes=3)
    if "text" in registry.choices(entry, "prototypes"):
        head.set_class_embeddings(torch.eye(3, registry.config_dict(entry, small_config(entry))["text_dim"]))
    else:
        with pytest.raises(UserError, match="does not compare classes with text"):
            head.set_class_embeddings(torch.eye(3))
