"""Heads beside themselves without an idea: which controls there are, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.arena.claims import claims_of
from detheads.arena.contest import Job, compete
from detheads.arena.controls import with_controls
from detheads.arena.run import choose
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from tests.training.world import World

NARROW = [("feature_graph.width", "8"), ("feature_graph.embedding", "4"), ("feature_graph.rounds", "1")]


def test_a_control_has_the_options_of_its_head_but_for_those_that_turn_the_idea_off() -> None:
    found = with_controls(choose("fcos,feature_graph", NARROW))
    ideas = registry.entry("feature_graph").head.controls
    assert list(found.options) == ["fcos", "feature_graph", *(f"feature_graph-without-{idea}" for idea in ideas)]
    assert [(each.head, each.idea) for each in found.controls.values()] == [("feature_graph", idea) for idea in ideas]
    found = with_controls(choose("fcos,feature_graph", NARROW), ["feature_graph.alike", "feature_graph.alike"])
    head, control = found.options["feature_graph"], found.options["feature_graph-without-alike"]
    assert control == {**head, "neighbours": 0}
    (record,) = found.controls.values()
    assert (record.head, record.idea, record.turned_off) == ("feature_graph", "alike", "neighbours=0")


@pytest.mark.parametrize(
    ("heads", "named", "options", "sentence"),
    [
        ("fcos", [], [], "none of the heads fcos states an idea"),
        ("fcos", ["fcos.bands"], [], "fcos has no control 'bands'; it states no idea that can be turned off"),
        ("feature_graph", ["feature_graph.bands"], [], "feature_graph has no control 'bands'; it has alike"),
        ("feature_graph", ["split_tower.bands"], [], "HEAD.IDEA of a head that takes part .feature_graph., not"),
        ("feature_graph", ["alike"], [], "HEAD.IDEA of a head that takes part .feature_graph., not 'alike'"),
        ("feature_graph", [], [("neighbours", "0")], "its idea 'alike' turned off already"),
    ],
)
def test_controls_that_make_no_sense_are_one_sentence(
    heads: str, named: list[str], options: list[tuple[str, str]], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        with_controls(choose(heads, options), named)


def test_a_head_and_its_control_are_trained_with_the_same_seeds_and_their_difference_is_told(
    world: World, tmp_path: Path
) -> None:
    contestants = with_controls(choose("feature_graph", NARROW), ["feature_graph.alike"])
    rows = []
    for name, options in contestants.options.items():
        job = Job(
            arena=tmp_path,
            head="feature_graph",
            control=contestants.controls.get(name),
            options=dict(options),
            train=world.caches / "plain",
            val=world.caches / "val",
            training={"epochs": 1, "batch": 5},
            threads=1,
            seeds=(3, 5),
        )
        rows.append(compete(job))
        assert (tmp_path / "detections" / f"{name}.json").is_file()
    assert [row.head for row in rows] == ["feature_graph", "feature_graph-without-alike"]
    for row in rows:
        assert [result.seed for result in row.seeds] == [3, 5]
        assert {"precision", "false_detections"} <= row.metrics.keys()
        assert all(0 <= (cost or 0) <= 1 for cost in row.errors.values()) and len(row.errors) == 6
    assert rows[1].options["neighbours"] == 0
    assert "alike" in rows[1].summary and "neighbours=0" in rows[1].summary
    (claim,) = claims_of({"scenes": rows})
    assert claim.sides["scenes"].seeds in ((3, 5), ())


@pytest.mark.slow
def test_one_command_trains_a_head_with_its_control_and_says_what_became_of_the_claim(
    world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    narrow = [f"-O{name}={value}" for name, value in NARROW]
    line = ("arena", "run", *caches, "--heads", "feature_graph", *narrow, "--epochs", 2, "--batch", 5, "--no-latency")
    finished = detheads(*line, "--with-controls", "--seeds", "0,1", "-o", tmp_path / "arena", "--json")
    assert finished.code == 0, finished.err
    claims = {claim["idea"]: claim for claim in json.loads(finished.out)["claims"]}
    assert list(claims) == sorted(registry.entry("feature_graph").head.controls)
    assert {claim["verdict"] for claim in claims.values()} <= {"stands", "falls", "undecided"}
    table = detheads(*line, "--control", "feature_graph.alike", "--seeds", "0,1", "-o", tmp_path / "arena")
    assert claims["alike"]["claim"] in " ".join(table.out.split())
    unknown = detheads(*line, "--control", "feature_graph.bands", "-o", tmp_path / "other")
    assert (unknown.code, (tmp_path / "other").exists()) == (1, False)
