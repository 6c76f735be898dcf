"""Detection heads on a frozen vision backbone: train in minutes, ship one verified graph."""

from importlib.metadata import PackageNotFoundError, version

from detheads.foundation.errors import UserError

try:
    __version__ = version("detheads")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["UserError", "__version__"]
