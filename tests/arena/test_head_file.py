"""A head in a user's own file: found by its name everywhere, or refused in a sentence that names what is missing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.head_file import load_head_file
from tests.arena.heads import GOOD, write_head
from tests.heads.worlds import SPECS, no_objects, objects, random_features, total_loss
from tests.training.world import World

pytestmark = pytest.mark.usefixtures("own_heads")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-head.md"


def test_a_head_file_is_known_by_its_name_and_may_be_loaded_twice(tmp_path: Path) -> None:
    path = write_head(tmp_path, "one_map")
    found = load_head_file(path)
    assert (found.name, found.summary) == ("one_map", "One map, one box a cell.")
    assert load_head_file(path) == found == registry.trainable()["one_map"]


def test_the_example_of_the_documentation_is_a_head_that_learns(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n# my_head.py\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    assert 30 <= len(code.splitlines()) <= 70
    path = tmp_path / "my_head.py"
    path.write_text(code, encoding="utf-8")
    load_head_file(path)
    for spec in SPECS.values():
        torch.manual_seed(0)
        head = registry.build("my_head", spec, 5)
        optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3)
        features, losses = random_features(spec, 2), []
        for _ in range(6):
            optimiser.zero_grad()
            losses.append(total_loss(head, features, [objects(spec), no_objects()]))
            losses[-1].backward()
            optimiser.step()
        assert losses[-1] < 0.97 * losses[0]


def test_train_eval_show_and_arena_take_a_head_file(
    world: World, tmp_path: Path, folder: Path, detheads: Callable[..., Any]
) -> None:
    path = write_head(tmp_path, "one_map")
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    run = tmp_path / "run"
    trained = detheads("train", "one_map", *caches, "--head-file", path, "--epochs", 1, "-o", run, "--json")
    assert trained.code == 0, trained.err
    evaluated = detheads("eval", run, "--cache", world.caches / "val", "--head-file", path, "--json")
    assert json.loads(evaluated.out)["AP"] == json.loads(trained.out)["AP"]
    shown = detheads("heads", "show", "one_map", "--head-file", path, "-O", "width=8", "--json")
    assert json.loads(shown.out)["config"] == {"width": 8}


def test_a_run_of_a_head_file_cannot_be_read_without_the_file(
    world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    """Nothing that a run folder names is executed."""
    path = write_head(tmp_path, "mine_only")
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    assert detheads("train", "mine_only", *caches, "--head-file", path, "--epochs", 1, "-o", tmp_path / "run").code == 0
    import sys

    registry.forget("mine_only")
    del sys.modules["detheads_head_file.mine_only"]
    refused = detheads("eval", tmp_path / "run", "--cache", world.caches / "val")
    assert refused.code == 1
    assert "unknown head 'mine_only'" in refused.err
    assert "--head-file" in refused.err


FAULTS = {
    "no forward": ("def forward", "def backward", "Plain lacks the method forward"),
    "not registered": ("@register(Config)", "", "registers no head; decorate its class with @register"),
    "not a head": ("(PointHead)", "", "Plain does not extend detheads.headkit.contract.Head"),
    "options are no dataclass": ("@dataclass(frozen=True)", "", "options that are no dataclass"),
    "option without default": ("width: int = 16", "width: int", "the option width without a default"),
    "option of no plain type": (
        "width: int = 16",
        "width: nn.Module = None",
        "head broken: the option width is of type Module; options may be int, float, bool, str, Literal, Enum",
    ),
    "option that cannot be told from text": (
        "width: int = 16",
        "width: int | str = 16",
        r"head broken: the option width is of type int \| str; options may be",
    ),
    "default of another type": ("width: int = 16", "width: int = 'x'", "option width .* must be a whole number, not x"),
    "other arguments": (
        "self, spec, num_classes, config",
        "self",
        r"lacks an __init__\(self, spec, num_classes, config\)",
    ),
    "no docstring": ('    """One map, one box a cell."""\n', "", "lacks a docstring"),
    "syntax": ("class Plain", "class", "line 20 fails with SyntaxError"),
    "import": ("from torch import nn", "from torch import nonsense", "line 6 fails with ImportError"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_head_file_that_breaks_the_contract_is_refused_and_forgotten(fault: str, tmp_path: Path) -> None:
    old, new, message = FAULTS[fault]
    assert old in GOOD
    broken = GOOD.replace(old, new).replace("BEFORE_DECODING", "pass")
    path = tmp_path / "broken.py"
    path.write_text(broken, encoding="utf-8")
    for _ in range(2):  # the second time it is as unknown as the first
        with pytest.raises(UserError, match=message) as raised:
            load_head_file(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
    assert "broken" not in registry.entries()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.py", "is not a Python file"),
        ("fcos.py", "there is a head 'fcos' already"),
        ("my-head.py", "is no Python name; rename the file"),
        ("notes.txt", "is not a Python file"),
    ],
)
def test_a_file_that_cannot_be_a_head_is_refused(name: str, message: str, tmp_path: Path) -> None:
    if name != "absent.py":
        (tmp_path / name).write_text(GOOD.replace("BEFORE_DECODING", "pass"), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_head_file(tmp_path / name)
