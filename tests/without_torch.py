"""Runs tests where PyTorch is not installed: ``pytest -p tests.without_torch``, with the toy world made elsewhere.

``python -m tests.without_torch FOLDER`` makes that world, and ``DETHEADS_TOY=FOLDER`` lets the tests find it. A test,
or a file of tests, that needs PyTorch itself is skipped at the import which says so.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest

HEAVY = frozenset({"torch", "torchvision", "timm", "onnxscript"})


class _Skip(MetaPathFinder):
    """In the place of what is not there. Programs that tests start are not affected."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> None:
        if name in HEAVY:
            pytest.skip(f"needs {name}", allow_module_level=True)
        return


def pytest_configure() -> None:
    sys.meta_path.append(_Skip())  # asked last: only for what nobody else has


if __name__ == "__main__":
    from tests.export.toy import bundle_toy, make_toy

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    bundle_toy(make_toy(folder), folder / "toy.detheads")
