"""What a cache would take, and the smaller ones, are told before anything is read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detheads.cache.manifest import PIXEL_RULE, LayerEntry, Settings
from detheads.cache.sizes import fitting_size, other_sizes, require_space
from detheads.foundation.errors import UserError

COCO = Settings(
    backbone="eupe_vitb16",
    timm_name="",
    licence="",
    weights_sha256=None,
    mean=(0, 0, 0),
    std=(1, 1, 1),
    height=768,
    width=768,
    pixel_rule=PIXEL_RULE,
    layers=(LayerEntry(name="last", channels=768, stride=16),),
    main=("last",),
    dtype="fp16",
    flips=True,
)
IMAGES = 118_287


def test_coco_takes_what_it_takes() -> None:
    assert round(IMAGES * COCO.bytes_per_image / 1e9) == 837
    sizes = {how: round(size / 1e9) for how, size in other_sizes(COCO, IMAGES).items()}
    assert sizes == {
        "with --dtype int8": 419,
        "without --flips (train --mirror features)": 419,
        "with --dtype int8 and without --flips (train --mirror features)": 210,
    }
    assert other_sizes(COCO.model_copy(update={"dtype": "int8", "flips": False}), 1).keys() == {"with --flips"}


def test_a_disk_that_is_too_small_names_the_smaller_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=600 * 10**9))
    with pytest.raises(UserError) as refused:
        require_space(tmp_path, IMAGES * COCO.bytes_per_image, COCO)
    said = str(refused.value)
    assert "needs another 837.2 GB" in said and "has 600.0 GB free" in said
    assert "with --dtype int8: 419.3 GB; without --flips (train --mirror features): 418.6 GB" in said
    assert "the largest --size that fits: 640) or use another disk" in said
    with pytest.raises(UserError, match=r"600\.0 GB free; make room or use another disk"):
        require_space(tmp_path, 10**12)
    require_space(tmp_path, 600 * 10**9, COCO)


def test_an_input_that_is_offered_fits_and_the_next_larger_one_does_not() -> None:
    wide = COCO.model_copy(update={"height": 320, "width": 512, "flips": False})
    assert fitting_size(wide, 1, wide.bytes_per_image - 1) == "304x480"
    assert fitting_size(wide, 1, wide.bytes_per_image // 5) is None  # a quarter of the places is no smaller cache


def test_the_sizes_are_told_before_the_build(shared_dataset: Path, tmp_path: Path, build: Callable[..., Any]) -> None:
    built = build(shared_dataset, tmp_path / "cache")
    assert "30.7 kB in fp16 (with --dtype int8: 17.9 kB; with --flips: 61.4 kB)" in built.err
