"""A pass over a cache: parts add up, a killed one goes on, damage is noticed, silent channels do no harm."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detheads.analytical import passes
from detheads.analytical.config import Config
from detheads.analytical.fit import collect_part
from detheads.analytical.plan import make_plan
from detheads.analytical.solve import Strengths, solve_first_stage
from detheads.analytical.statistics import Statistics, collect, load_statistics
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.progress import silent
from detheads.headkit.blocks import join_main
from tests.analytical.conftest import QUICK

# Parts


def _tensors(statistics: Statistics) -> dict[str, Tensor]:
    """All sums by name, with one pilot for all so that they compare."""
    sums = {}
    for level, moments in enumerate(statistics.classes):
        sums[f"classes{level}.weight"] = moments.weight
        sums[f"classes{level}.sum"] = moments.first + moments.weight[:, None] * moments.pilot.double()
    for kind, problems in (("anchors", statistics.anchors), ("boxes", statistics.boxes)):
        for index, problem in enumerate(problems):
            sums[f"{kind}{index}.weight"] = problem.weight
            if problem.total:
                sums[f"{kind}{index}.gram"], sums[f"{kind}{index}.cross"] = problem.scatter()[0], problem.cross()
    return sums


def assert_equal_sums(found: Statistics, wanted: Statistics) -> None:
    values = _tensors(wanted)
    for name, value in _tensors(found).items():
        torch.testing.assert_close(value, values[name].to(value.dtype), rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("config", [Config(), QUICK], ids=["bands", "context"])
def test_parts_merged_in_any_order_equal_one_pass(config: Config, narrow: FeatureCache, tmp_path: Path) -> None:
    parts = [tmp_path / f"part {index}" for index in (1, 2, 3)]
    for index, path in enumerate(parts):
        collect_part(narrow, config, path, (index + 1, 3), silent)
    plan = make_plan(narrow, config, silent)
    whole = collect(narrow, plan, tmp_path / "whole", 0, len(narrow), silent)
    assert [load_statistics(path).images for path in parts] == [3, 3, 4]
    for order in permutations(parts):
        merged = Statistics.empty(plan)
        for path in order:
            merged.merge(load_statistics(path))
        assert merged.parts == [(narrow.sha256, 0, 3), (narrow.sha256, 3, 6), (narrow.sha256, 6, 10)]
        assert (merged.images, merged.rows) == (whole.images, whole.rows)
        assert_equal_sums(merged, whole)


def test_the_pass_does_not_depend_on_how_many_images_are_read_at_once(
    narrow: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(narrow, QUICK, silent)
    wanted = _tensors(collect(narrow, plan, tmp_path / "eights", 0, len(narrow), silent))
    monkeypatch.setattr(passes, "BATCH", 3)
    for name, value in _tensors(collect(narrow, plan, tmp_path / "threes", 0, len(narrow), silent)).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-4, msg=name)


def test_what_is_saved_does_not_grow_with_the_images(narrow: FeatureCache, tmp_path: Path) -> None:
    plan = make_plan(narrow, QUICK, silent)
    for images in (1, 10):
        collect(narrow, plan, tmp_path / str(images), 0, images, silent)
    small, large = ((tmp_path / str(images)).stat().st_size for images in (1, 10))
    assert abs(large - small) < 64  # the number of images has another digit


# A pass that was killed


class KilledError(Exception):
    """Stands for a process that ends in the middle."""


@pytest.mark.parametrize("survives", [2, 6, 8])
def test_a_killed_pass_goes_on_and_gives_the_same_file(
    survives: int, narrow: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "BATCH", 2)
    monkeypatch.setattr(passes, "SAVE_SECONDS", -1.0)
    plan = make_plan(narrow, QUICK, silent)
    collect(narrow, plan, tmp_path / "whole", 0, 10, silent)

    def kill(step: str, done: int, total: int) -> None:
        if done > survives:
            raise KilledError

    with pytest.raises(KilledError):
        collect(narrow, plan, tmp_path / "killed", 0, 10, kill)
    assert load_statistics(tmp_path / "killed").parts == [(narrow.sha256, 0, survives)]
    steps: list[int] = []
    collect(narrow, plan, tmp_path / "killed", 0, 10, lambda step, done, total: steps.append(done))
    assert steps == list(range(survives + 2, 11, 2))
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_finished_pass_is_not_taken_again(narrow: FeatureCache, tmp_path: Path) -> None:
    plan = make_plan(narrow, QUICK, silent)
    collect(narrow, plan, tmp_path / "whole", 0, 10, silent)
    before = (tmp_path / "whole").read_bytes()
    steps: list[int] = []
    collect(narrow, plan, tmp_path / "whole", 0, 10, lambda step, done, total: steps.append(done))
    assert steps == []
    assert (tmp_path / "whole").read_bytes() == before


# Damaged files


@pytest.fixture(scope="module")
def sound(narrow: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A statistics file."""
    path = tmp_path_factory.mktemp("sound") / "statistics"
    collect(narrow, make_plan(narrow, QUICK, silent), path, 0, 3, silent)
    return path.read_bytes()


def _one_clear_sentence(path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_statistics(path)
    text = str(caught.value)
    assert str(path) in text
    assert "damaged" in text
    assert "collect" in text
    assert "\n" not in text


def test_one_flipped_byte_anywhere_in_the_header_is_noticed(sound: bytes, tmp_path: Path) -> None:
    header = 8 + int.from_bytes(sound[:8], "little")
    path = tmp_path / "statistics"
    for place in range(0, header, max(1, header // 120)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x01]) + sound[place + 1 :])
        _one_clear_sentence(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_one_flipped_byte_in_the_sums_is_noticed(share: float, sound: bytes, tmp_path: Path) -> None:
    place = int(share * len(sound))
    path = tmp_path / "statistics"
    path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x40]) + sound[place + 1 :])
    _one_clear_sentence(path)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
def test_a_truncated_file_is_noticed(kept: float, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "statistics"
    path.write_bytes(sound[: int(kept * len(sound)) if isinstance(kept, float) else kept])
    _one_clear_sentence(path)


def test_a_missing_file_and_a_folder_are_told_apart_from_damage(narrow: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing does not exist; .*'detheads analytical collect'"):
        load_statistics(tmp_path / "nothing")
    with pytest.raises(UserError, match="is a folder"):
        collect(narrow, make_plan(narrow, QUICK, silent), tmp_path, 0, 3, silent)


# Channels that say nothing


def _with_channels(cache: FeatureCache, change: Callable[[Tensor], Tensor]) -> FeatureCache:
    """The cache with ``change`` applied to its only layer."""

    class Changed(FeatureCache):
        def features(self, *arguments: object, **options: object) -> dict[str, Tensor]:
            (item,) = super().features(*arguments, **options).items()  # type: ignore[arg-type]
            return {item[0]: change(item[1].clone())}

    return Changed(cache.folder)


def _constant(values: Tensor) -> Tensor:
    values[:, 5] = 3.7
    values[:, 9] = 0.0
    return values


def _copied(values: Tensor) -> Tensor:
    values[:, 5] = values[:, 6]
    return values


@pytest.mark.parametrize("change", [_constant, _copied])
def test_components_without_variance_are_left_out(change: Callable[[Tensor], Tensor], narrow: FeatureCache) -> None:
    """As many components as channels, some of which say nothing: dividing by their spread would blow up rounding."""
    cache = _with_channels(narrow, change)
    head = make_plan(cache, replace(QUICK, components=64), silent).build_head()
    joined = join_main(cache.features(range(10)), cache.feature_spec)
    rows = head.compress(joined).permute(1, 0, 2, 3).flatten(1)
    empty = {_constant: 2, _copied: 1}[change]
    torch.testing.assert_close(torch.cov(rows[:-empty]), torch.eye(64 - empty), atol=0.02, rtol=0)
    assert (rows[-empty:] == 0).all()
    noise = 1e-3 * torch.randn(joined.shape, generator=torch.Generator().manual_seed(0))
    assert (head.compress(joined + noise).permute(1, 0, 2, 3).flatten(1) - rows).abs().max() < 5


@pytest.mark.parametrize("change", [_constant, _copied])
@pytest.mark.parametrize(
    "config",
    [Config(), replace(QUICK, components=10)],
    ids=["bands", "context"],
)
@pytest.mark.parametrize("shrinkage", [0.0, 0.02])
def test_constant_and_dependent_channels_are_solved_with_a_remark_where_that_matters(
    config: Config, change: Callable[[Tensor], Tensor], shrinkage: float, narrow: FeatureCache, tmp_path: Path
) -> None:
    cache = _with_channels(narrow, change)
    plan = make_plan(cache, config, silent)
    statistics = collect(cache, plan, tmp_path / "statistics", 0, len(cache), silent)
    head = plan.build_head()
    solution = solve_first_stage(statistics, Strengths(shrinkage=shrinkage, alpha=10), head)
    # The map changes a little where the channels were constant: nothing may blow up.
    calm = cache.features(range(10))
    generator = torch.Generator().manual_seed(0)
    shaken = {name: values + 1e-3 * torch.randn(values.shape, generator=generator) for name, values in calm.items()}
    output = head(shaken)
    assert torch.isfinite(output.boxes).all()
    assert output.logits.abs().max() < 1e3
    assert (output.logits - head(calm).logits).abs().median() < 1
    singular = [line for line in solution.remarks if "singular" in line]
    if shrinkage == 0 and config.view == "bands":
        assert any(line.startswith("discriminant: the covariance within the classes") for line in singular)
    if shrinkage > 0:
        assert singular == []
