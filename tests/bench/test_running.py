"""``bench run`` and ``bench tiles`` on a toy: what they measure, and what they judge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.export.toy import Toy


def test_a_run_is_measured_beside_its_detector(bundle: Path, toy: Toy, detheads: Callable[..., Any]) -> None:
    done = detheads("bench", "run", bundle, toy.images, "--images", 3, "--rounds", 1, "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert (answer["images"], answer["rounds"], answer["batch"]) == (3, 1, 1)
    assert answer["ratio"] == pytest.approx(answer["run"] / answer["detector"])
    assert 0 < answer["cpu_ratio"] < 2
    assert answer["drawn_ratio"] == pytest.approx(answer["drawn"] / answer["detector"])


def test_tiles_as_large_as_the_pictures_find_what_is_found_in_each_alone(
    bundle: Path, toy: Toy, detheads: Callable[..., Any]
) -> None:
    """The cells of the mosaic are the tiles: 640 pixels, the longest side of the toy's pictures."""
    options = ["--split", "val", "--grid", 2, "--tile", 640, "--overlap", 0]
    done = detheads("bench", "tiles", bundle, toy.data, *options, "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert (answer["images"], answer["mosaics"], answer["width"]) == (7, 2, 1280)
    ways = {way["name"]: way for way in answer["ways"]}
    assert list(ways) == ["each picture alone", "mosaics whole", "tiles", "tiles and whole"]
    assert ways["each picture alone"]["AP"] > 0.2  # the toy's objects are what it finds
    assert ways["mosaics whole"]["AP"] < 0.5 * ways["each picture alone"]["AP"]
    assert ways["tiles"]["AP"] > ways["mosaics whole"]["AP"]
