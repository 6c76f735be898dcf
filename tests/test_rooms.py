"""The house keeps its order, and the reader of the order sees what breaks it."""

import ast
from pathlib import Path

import pytest

from tests.rooms import WITHOUT_TORCH, faults, read_house, report

TREE = Path(__file__).parents[1]


def test_no_arrow_runs_upward_and_no_rooms_form_a_circle() -> None:
    assert faults(read_house(TREE)) == []


def test_every_room_says_what_it_is_for() -> None:
    house = read_house(TREE)
    doors = [min(modules) for modules in house.rooms.values()]
    assert [name for name in doors if not ast.get_docstring(ast.parse(house.modules[name].read_text("utf-8")))] == []


def test_the_torch_free_rooms_exist() -> None:
    assert read_house(TREE).rooms.keys() >= WITHOUT_TORCH.keys()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A house in order: deploy stands on foundation and data, training on ops."""
    for module, text in {
        "detheads/__init__.py": "",
        "detheads/foundation/__init__.py": "",
        "detheads/foundation/boxes.py": "import numpy",
        "detheads/data/__init__.py": "",
        "detheads/data/coco.py": "from detheads.foundation.boxes import Box",
        "detheads/data/augment.py": "import torch",
        "detheads/ops/__init__.py": "import torch",
        "detheads/training/__init__.py": "from detheads import ops",
        "deploy/__init__.py": "from detheads.data import coco",
    }.items():
        path = tmp_path / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_house_in_order_has_no_faults(tree: Path) -> None:
    assert faults(read_house(tree)) == []


@pytest.mark.parametrize(
    ("module", "text", "sentences"),
    [
        (
            "detheads/ops/nms.py",
            "def late():\n    import detheads.training",
            [
                "an arrow runs upward: detheads.ops.nms imports detheads.training",
                "rooms in a circle: ops, training",
            ],
        ),
        (
            "detheads/data/coco.py",
            "from ..ops import anything",
            [
                "an arrow runs upward: detheads.data.coco imports detheads.ops",
                "deploy is to do without torch: detheads.ops imports it",
            ],
        ),
        (
            "detheads/foundation/boxes.py",
            "def late():\n    from timm.layers import Mlp",
            [
                "foundation is to do without timm: detheads.foundation.boxes imports it",
                "deploy is to do without timm: detheads.foundation.boxes imports it",
            ],
        ),
        ("deploy/run.py", "from detheads.data.augment import flip", ["deploy is to do without torch: "]),
        ("deploy/run.py", "from detheads import ops", ["deploy may not import from ops: detheads.deploy.run imports"]),
        ("detheads/attic.py", "", ["attic has no place in ORDER"]),
    ],
)
def test_each_kind_of_fault_is_seen(tree: Path, module: str, text: str, sentences: list[str]) -> None:
    (tree / module).write_text(text)
    found = faults(read_house(tree))
    for sentence in sentences:
        assert any(line.startswith(sentence) for line in found), (sentence, found)


def test_the_table_counts_and_marks_imports_inside_functions(tree: Path) -> None:
    (tree / "detheads/training/loop.py").write_text("def late():\n    from detheads.data.coco import read\n")
    table = report(read_house(tree)).splitlines()
    (training,) = [line.split() for line in table if line.startswith("training")]
    assert training == ["training", "2", "3", "data*", "ops"]
    assert table[-1] == "4 arrows between rooms, 0 faults"
