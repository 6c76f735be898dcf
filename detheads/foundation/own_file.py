"""Python files of the user's own, executed where they are named on the command line and nowhere else."""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from detheads.foundation.errors import UserError


def run_file(path: Path, module_name: str) -> ModuleType:
    """Execute a Python file as the module ``module_name``.

    Raises:
        UserError: when it fails, with the line in it.
    """
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be loaded as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        if isinstance(error, UserError):
            raise UserError(f"{path}: {error}") from None
        raise UserError(f"{path}{line_in(path, error)} fails with {type(error).__name__}: {error}; mend it.") from error
    return module


def line_in(path: Path, error: BaseException) -> str:
    """``", line 12"`` where the error came out of the file itself."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
    return f", line {lines[-1]}" if lines else ""
