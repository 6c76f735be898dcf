"""The toy bundle of the export tests, made once more in a folder of its own."""

from tests.export.conftest import bundle, toy

__all__ = ["bundle", "toy"]
