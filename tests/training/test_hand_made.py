"""A head that somebody trained in a loop of their own becomes a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.heads.fcos import FCOS
from detheads.training.checkpoint import build_head, load_checkpoint
from detheads.training.hand_made import save_run
from tests.training.world import NARROW, World


def test_a_saved_head_is_evaluated_as_any_run(world: World, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    cache, val = world.cache("train"), world.cache("val")
    torch.manual_seed(1)
    head = registry.build("fcos", cache.feature_spec, len(cache.dataset.categories), NARROW["fcos"])
    metrics = save_run(tmp_path / "run", head, cache, options=NARROW["fcos"], val=val)
    found = build_head(load_checkpoint(tmp_path / "run")).state_dict()
    assert all(torch.equal(found[name], value) for name, value in head.state_dict().items())
    evaluated = detheads("eval", tmp_path / "run", "--cache", world.caches / "val", "--json")
    assert json.loads(evaluated.out)["AP"] == pytest.approx(metrics["AP"], abs=1e-9), evaluated.err
    with pytest.raises(UserError, match=r"is not empty"):
        save_run(tmp_path / "run", head, cache, options=NARROW["fcos"])


def test_what_could_not_be_built_again_is_refused_and_nothing_is_written(world: World, tmp_path: Path) -> None:
    cache = world.cache("train")
    classes = len(cache.dataset.categories)
    head = registry.build("fcos", cache.feature_spec, classes, NARROW["fcos"])
    with pytest.raises(UserError, match=r"the checkpoint's weights do not fit head fcos"):
        save_run(tmp_path / "run", head, cache)  # the options were left out
    fewer = registry.build("fcos", cache.feature_spec, classes - 1, NARROW["fcos"])
    with pytest.raises(UserError, match=r"do not fit head fcos: classes.bias is 9, not 10"):
        save_run(tmp_path / "run", fewer, cache, options=NARROW["fcos"])

    class Mine(FCOS):
        pass

    mine = Mine(cache.feature_spec, classes, registry.make_config(registry.entry("fcos"), NARROW["fcos"]))
    with pytest.raises(UserError, match=r"Mine is no registered head"):
        save_run(tmp_path / "run", mine, cache, options=NARROW["fcos"])
    with torch.no_grad():
        next(head.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match=r"weights that are not finite"):
        save_run(tmp_path / "run", head, cache, options=NARROW["fcos"])
    assert not (tmp_path / "run").exists()
