"""A head in a user's own file: loaded, checked against the contract, known by the file's name from then on."""

import dataclasses
import inspect
import sys
from pathlib import Path

from pydantic import PydanticUserError

from detheads.foundation.errors import UserError
from detheads.foundation.own_file import run_file
from detheads.headkit import registry
from detheads.headkit.contract import Head

PACKAGE = "detheads_head_file"
"""Prefix of the modules' names, so that a file named like an installed package hides nothing."""


def load_head_file(path: Path) -> registry.Entry:
    """Run a Python file that registers one head, and check what it registers.

    The file is the user's own program: it is executed, so it is only ever loaded where the user names it.

    Raises:
        UserError: when the file is missing or fails, its name is taken, or the head does not follow the contract
            (naming the member).
    """
    name = path.stem
    module_name = f"{PACKAGE}.{name}"
    loaded = sys.modules.get(module_name)
    if loaded is not None and loaded.__file__ == str(path.resolve()):
        return registry.entry(name)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"{path} is not a Python file; give the file of a head, such as my_head.py.")
    if not name.isidentifier():
        raise UserError(f"{path}: a head is called like its file, and {name!r} is no Python name; rename the file.")
    if loaded is not None or name in registry.entries():
        raise UserError(f"{path}: there is a head {name!r} already; rename the file.")
    try:
        run_file(path, module_name)
    except UserError:
        registry.forget(name)
        raise
    found = registry.entries().get(name)
    try:
        if found is None:
            raise UserError(f"{path} registers no head; decorate its class with @register(Config).")
        fault = _fault(found)
        if fault:
            raise UserError(f"{path}: {found.head.__name__} {fault}.")
    except UserError:
        registry.forget(name)
        del sys.modules[module_name]
        raise
    return found


def _fault(found: registry.Entry) -> str | None:
    """What the registered class lacks, or None."""
    if not (inspect.isclass(found.head) and issubclass(found.head, Head)):
        return "does not extend detheads.headkit.contract.Head"
    missing = sorted(getattr(found.head, "__abstractmethods__", ()))
    if missing:
        return f"lacks the method {', '.join(missing)}"
    if not dataclasses.is_dataclass(found.config):
        return "is registered with options that are no dataclass"
    for field in dataclasses.fields(found.config):
        if registry.default_of(field) is dataclasses.MISSING:
            return f"has the option {field.name} without a default"
    try:
        registry.make_config(found, registry.defaults(found))
    except UserError as error:
        return f"has a default that is not allowed: {error}".rstrip(".")
    except (TypeError, RuntimeError, PydanticUserError) as error:  # bounds that do not fit the type
        return f"has an option of a type that cannot be checked ({str(error).splitlines()[0]})"
    try:
        inspect.signature(found.head).bind(None, 1, None)
    except TypeError:
        return "lacks an __init__(self, spec, num_classes, config)"
    if not found.summary:
        return "lacks a docstring, whose first line is shown in lists"
    return None
