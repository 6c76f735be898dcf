"""``detheads heads``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.headkit import registry
from tests.arena.heads import write_head

HEADS = sorted(registry.entries())


def test_the_list_is_one_json_list_with_every_head(detheads: Callable[..., Any]) -> None:
    finished = detheads("heads", "list", "--json")
    assert (finished.code, finished.err) == (0, "")
    rows = json.loads(finished.out)
    assert [row["name"] for row in rows] == HEADS
    for row in rows:
        assert set(row) >= {"name", "parameters", "nms_free", "gflops", "summary"}
        assert isinstance(row["nms_free"], bool)
        assert row["parameters"] > 0
        assert row["gflops"] > 0
    published = {row["name"]: row["parameters"] for row in rows}
    assert (published["fcos"], published["split_tower"]) == (16_138_074, 2_975_067)


def test_the_list_for_another_backbone_size_and_number_of_classes(detheads: Callable[..., Any]) -> None:
    def parameters(*options: object) -> dict[str, float]:
        rows = json.loads(detheads("heads", "list", "--backbone", "effnet_lite0", *options, "--json").out)
        return {row["name"]: row["parameters"] + row["gflops"] for row in rows}

    few, many = parameters("--size", "256", "--classes", 1), parameters("--size", "256x512", "--classes", 300)
    assert set(few) == {name for name in HEADS if not registry.entry(name).head.blocks}
    assert all(many[name] > few[name] for name in few)


def test_a_head_that_the_backbone_cannot_feed_is_left_out_with_the_reason(detheads: Callable[..., Any]) -> None:
    listed = detheads("heads", "list", "--backbone", "effnet_lite0")
    assert "left out: head hook_fcos reads block2, block5, block8" in listed.err
    assert "hook_fcos" not in listed.out


def test_the_list_for_the_human_is_a_table(detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    printed = detheads("heads", "list").out
    assert all(name in printed for name in HEADS)
    assert "2,975,067" in printed
    assert "for eupe_vitb16 at 768x768, 80 classes" in printed


@pytest.mark.parametrize("name", HEADS)
def test_show_tells_idea_options_and_cost_of_one_head(name: str, detheads: Callable[..., Any]) -> None:
    answer = json.loads(detheads("heads", "show", name, "--json").out)
    assert answer["name"] == name
    assert answer["config"] == registry.defaults(registry.entry(name))
    assert answer["allowed"].keys() == answer["config"].keys()
    assert len(answer["about"]) > 100
    assert {idea: found["options"] for idea, found in answer["controls"].items()} == {
        idea: dict(control.options) for idea, control in registry.entry(name).head.controls.items()
    }
    assert 0 < sum(answer["parts"].values()) <= answer["parameters"]
    assert answer["candidates"] >= 1
    printed = detheads("heads", "show", name).out
    assert f"{answer['parameters']:,} parameters" in printed


def test_show_applies_options(detheads: Callable[..., Any]) -> None:
    narrow = json.loads(detheads("heads", "show", "fcos", "-O", "width=32", "-O", "tower_blocks=0", "--json").out)
    assert (narrow["config"]["width"], narrow["config"]["tower_blocks"]) == (32, 0)
    assert narrow["parameters"] < 16_138_074
    assert narrow["parts"]["class_tower"] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "fcoz"), "unknown head 'fcoz'; did you mean fcos"),
        (
            ("show", "fcos", "-O", "widht=3"),
            "head fcos has no option 'widht'; it has assigner, dropout, tower_blocks, width.",
        ),
        (("show", "fcos", "-O", "assigner=simota"), "must be one of atss, fcos, not simota"),
        (("show", "fcos", "-O", "width=0"), "option width of head fcos must be a whole number above 0, not 0"),
        (("list", "--backbone", "eupe_vitb17"), "did you mean eupe_vitb16"),
        (("list", "--backbone", "timm:resnet18"), "has to be built to know its features"),
        (("list", "--size", "100"), "needs input sides that are multiples of 16, not 100x100"),
        (("list", "--size", "big"), "--size takes pixels such as 512"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[object, ...], sentence: str, detheads: Callable[..., Any]) -> None:
    finished = detheads("heads", *arguments)
    assert (finished.code, finished.result) == (1, "")
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    assert sentence in finished.err


def test_check_holds_a_head_file_to_the_contract(tmp_path: Path, own_heads: None, detheads: Callable[..., Any]) -> None:
    good, bad = write_head(tmp_path, "keeps"), write_head(tmp_path, "breaks", "x = x - x.mean(dim=0)")
    held = detheads("heads", "check", good, "--json")
    assert held.code == 0, held.err
    assert json.loads(held.out)["holds"] is True
    assert [entry["fault"] for entry in json.loads(held.out)["checks"]] == [None] * 10
    broken = detheads("heads", "check", bad, "--no-export")
    assert broken.code == 1
    assert "broken  an image gives the same alone as in a batch: boxes of an image differ by" in broken.err
    assert "(1 class, features of a transformer, 64x64)" in broken.err
    assert "promises are broken" in broken.out
