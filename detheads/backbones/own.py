"""A backbone in a user's own file: executed, checked, known by the file's name from then on.

The file defines ``spec``, a :class:`~detheads.backbones.spec.BackboneSpec` called like the file, and, unless
``spec.timm_name`` is a model of timm, ``build(height, width)``: a module that takes normalised images ``[B, 3, H, W]``
and returns a map ``[B, C, H / stride, W / stride]`` for each of ``spec.channels`` and ``spec.strides``, in their order.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from detheads.backbones.spec import SPECS, BackboneSpec, register_own
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.own_file import run_file

PACKAGE = "detheads_backbone_file"
"""Prefix of the modules' names, so that a file named like an installed package hides nothing."""


@dataclass(frozen=True)
class OwnBackbone:
    """What a backbone file defines.

    Attributes:
        path: the file.
        sha256: its digest, which caches, checkpoints and bundles carry: features depend on it.
        build: makes the module for an input size (height, width in pixels); None where timm does.
    """

    path: Path
    sha256: str
    spec: BackboneSpec
    build: Callable[[int, int], nn.Module] | None


_LOADED: dict[str, OwnBackbone] = {}


def load_backbone_file(path: str | Path) -> OwnBackbone:
    """Run a Python file that defines a backbone.

    The file is the user's own program: it is executed, so it is only ever loaded where the user names it.

    Raises:
        UserError: when the file is missing or fails, its name is taken, or it does not define what it has to.
    """
    path = Path(path)
    name = path.stem
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"{path} is not a Python file; give the file of a backbone, such as my_backbone.py.")
    sha256 = atomic.sha256_of(path)
    loaded = _LOADED.get(name)
    if loaded is not None and (loaded.path.resolve(), loaded.sha256) == (path.resolve(), sha256):
        return loaded
    if loaded is not None or name in SPECS:
        raise UserError(f"{path}: there is a backbone {name!r} already; rename the file.")
    module = run_file(path, f"{PACKAGE}.{name}")
    spec, build = getattr(module, "spec", None), getattr(module, "build", None)
    fault = _fault(name, spec, build)
    if fault or not isinstance(spec, BackboneSpec):
        del sys.modules[f"{PACKAGE}.{name}"]
        raise UserError(f"{path} {fault}.")
    _LOADED[name] = OwnBackbone(path, sha256, spec, build)
    register_own(spec)
    return _LOADED[name]


def own_backbone(name: str) -> OwnBackbone | None:
    """The backbone of that name that a file defined in this process."""
    return _LOADED.get(name)


def require_backbone_file(name: str, sha256: str | None) -> None:
    """Refuse to go on without the file that features were made with.

    Args:
        sha256: its recorded digest; None for a backbone that this package knows.

    Raises:
        UserError: when the file was not given, or is another one now.
    """
    own = _LOADED.get(name)
    if sha256 is None or (own is not None and own.sha256 == sha256):
        return
    if own is None:
        raise UserError(
            f"the features were made by {name}, a backbone of a file of your own; "
            f"give it with --backbone-file {name}.py."
        )
    raise UserError(
        f"{own.path} has SHA-256 {own.sha256[:12]}..., the features were made with a {name}.py of {sha256[:12]}...; "
        "give the file as it was then, or build the cache again with this one."
    )


def _fault(name: str, spec: object, build: object) -> str | None:
    if not isinstance(spec, BackboneSpec):
        return "defines no spec; it needs spec = BackboneSpec(...) of detheads.backbones.spec"
    if spec.name != name:
        return f"defines the backbone {spec.name!r}; a backbone is called like its file, so call it {name!r}"
    if build is not None and not callable(build):
        return "defines a build that is no function of (height, width)"
    if build is None and spec.weights == "built":
        return "says that its weights are built and defines no build(height, width)"
    if len(spec.channels) != len(spec.strides) or not spec.channels or len(set(spec.strides)) < len(spec.strides):
        return "has a spec whose channels and strides are no pairs of different strides"
    if any(spec.multiple % stride for stride in spec.strides) or spec.default_size % spec.multiple:
        return "has a spec whose multiple does not fit its strides, or whose default_size does not fit its multiple"
    return None
