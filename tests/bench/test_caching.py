"""What the benchmark of caching measures."""

import time
from pathlib import Path

import pytest
import torch

from detheads.backbones.backbone import Backbone, load_backbone
from detheads.bench import caching
from detheads.bench.caching import bench_cache
from detheads.cache import images
from detheads.data import read_dataset
from detheads.data.scenes import generate
from detheads.foundation.progress import silent
from detheads.ops.devices import described


@pytest.mark.parametrize(("images", "batch", "measured", "warm_up"), [(11, 2, 10, 2), (3, 2, 3, 2), (2, 8, 2, 2)])
def test_caching_and_the_bare_backbone_see_as_many_images(
    images: int, batch: int, measured: int, warm_up: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(tmp_path / "scenes", images, 1, size=96)
    backbone = load_backbone("timm:test_vit", (96, 96), random_weights=True)
    seen = {"caching": 0, "bare": 0}
    forward, build = Backbone.forward, caching.build_cache
    who = "bare"

    def count(self: Backbone, pixels: object) -> object:
        seen[who] += len(pixels)  # type: ignore[arg-type]
        return forward(self, pixels)  # type: ignore[arg-type]

    def build_and_tell(*arguments: object, **options: object) -> object:
        nonlocal who
        who = "caching"
        try:
            return build(*arguments, **options)  # type: ignore[arg-type]
        finally:
            who = "bare"

    monkeypatch.setattr(Backbone, "forward", count)
    monkeypatch.setattr(caching, "build_cache", build_and_tell)
    done: list[tuple[str, int, int]] = []
    result = bench_cache(read_dataset(tmp_path / "scenes", "train"), backbone, batch, lambda *state: done.append(state))
    assert result.images == measured
    assert seen == {"caching": measured + warm_up, "bare": measured + warm_up}
    assert done[-1][1:] == (measured, measured)
    assert {total for _, _, total in done} == {measured}


def test_slow_pictures_show_as_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(tmp_path / "scenes", 8, 1, size=96)
    backbone = load_backbone("timm:test_vit", (96, 96), random_weights=True)
    known = images.load_input
    monkeypatch.setattr(images, "available_cores", lambda: 1)
    monkeypatch.setattr(images, "load_input", lambda *given: time.sleep(0.1) or known(*given))  # type: ignore[func-returns-value]
    result = bench_cache(read_dataset(tmp_path / "scenes", "train"), backbone, 2, silent)
    assert 0.5 < result.waiting <= 1
    assert result.ratio < 0.5
    assert (result.device, result.precision) == (described(torch.device("cpu")), "fp32")
