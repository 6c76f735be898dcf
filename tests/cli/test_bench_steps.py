"""``detheads bench step`` as a command."""

import json
from collections.abc import Callable
from typing import Any

NARROW = ("-O", "width=8", "-O", "tower_blocks=1", "--images", 2, "--objects", 3, "--classes", 4)


def test_operations_and_waits_of_the_named_heads_are_printed(detheads: Callable[..., Any]) -> None:
    finished = detheads("bench", "step", "slim_fcos", "centernet", *NARROW, "--no-ahead", "--json")
    assert finished.code == 0, finished.err
    slim, center = json.loads(finished.out)
    assert [slim["head"], center["head"]] == ["slim_fcos", "centernet"]
    assert (slim["images"], slim["objects"], slim["ahead"]) == (2, 3, False)
    assert (slim["total"]["waits"], center["total"]["waits"]) == (1, 0)
    printed = detheads("bench", "step", "slim_fcos", *NARROW).out
    assert "operations dispatched in one step of 2 images with 3 objects each" in printed.replace("\n", " ")
    assert "slim_fcos" in printed


def test_a_head_that_is_none_is_refused_before_anything_is_counted(detheads: Callable[..., Any]) -> None:
    finished = detheads("bench", "step", "slim_fcos", "fat_fcos", *NARROW)
    assert finished.code == 1
    assert "fat_fcos" in finished.err
    assert "Traceback" not in finished.err
