"""What the package offers by name, from Python."""

import importlib
import subprocess
import sys

import pytest

import detheads


@pytest.mark.parametrize("name", sorted(set(detheads.__all__) - {"__version__"}))
def test_every_public_name_is_documented_where_it_is_defined(name: str) -> None:
    value = getattr(detheads, name)
    assert getattr(importlib.import_module(value.__module__), name) is value
    assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'detheads' has no attribute 'Detecter'"):
        _ = detheads.Detecter


@pytest.mark.parametrize("line", ["import detheads", "from detheads import Detector, read_dataset; dir(Detector)"])
def test_the_runtime_is_imported_without_torch(line: str) -> None:
    program = f"{line}\nimport sys\nprint(sorted({{'torch', 'timm', 'sklearn'}} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
