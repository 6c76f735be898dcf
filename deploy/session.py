"""A bundle ready to run, in the library that its provider belongs to."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detheads.deploy import backends
from detheads.deploy.agreement import OUTPUTS
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest

AUTO = "auto"
"""What :meth:`detheads.deploy.detector.Detector.load` takes for the name of a backend; no backend is called so."""
CPU = "CPUExecutionProvider"
ONNX_RUNTIME = "onnx_runtime"
"""The backend of every provider that does not begin with the name of another one."""
SHORT = {"cpu": CPU, "cuda": "CUDAExecutionProvider"}
"""Providers of ONNX Runtime that have a short name."""

Rows = tuple[NDArray[Any], ...]
"""Boxes ``[B, R, 4]`` (xyxy, input pixels), scores ``[B, R]``, labels ``[B, R]``; unused rows have score 0."""


class Backend(Protocol):
    """What ``open_backend(bundle, manifest, provider, threads)`` of a file in ``backends/`` returns.

    A provider ``NAME`` or ``NAME:DEVICE`` belongs to the file ``backends/NAME.py``, which may also have
    ``candidates(manifest)``: names under which this machine might run a bundle, for ``auto`` to measure.

    Attributes:
        name: library, version and device that run the graph.
        file: the artefact that runs, by its name in the bundle: the graph, or an engine.
    """

    name: str
    file: str

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Letterboxed RGB ``[B, 3, H, W]`` -> of each head ``boxes`` ``[B, R, 4]`` (float32, xyxy, input pixels),
        ``scores`` ``[B, R]`` (float32) and ``labels`` ``[B, R]`` (int32), called ``NAME.boxes`` and so on where there
        are several heads."""
        ...


class BundleSession:
    """The graph of a bundle, checked against its manifest.

    Args:
        bundle: folder ``name.detheads/``.
        backend: ``cpu``, ``cuda``, the name of another backend, or an execution provider of ONNX Runtime; each with
            ``:DEVICE`` where it is not the first one. There is no fallback to another one.
        threads: CPU threads of one run; the library's own choice when None, within what this process may use.

    Attributes:
        manifest: what the bundle says of itself.
        runner: the library with the graph in it, without a check of what it is given.
        runtime: library, version and device that run it.
        file: the artefact that runs, by its name in the bundle.

    Raises:
        UserError: when the folder is no bundle, a file is not the one the manifest describes, graph and manifest
            contradict each other, or the provider is not there.
    """

    def __init__(self, bundle: Path, *, backend: str = CPU, threads: int | None = None) -> None:
        self.manifest = read_manifest(bundle)
        module_name, provider = _module_of(backend)
        module = importlib.import_module(f"{backends.__name__}.{module_name}")
        self.runner: Backend = module.open_backend(bundle, self.manifest, provider, threads)
        self.runtime, self.file = self.runner.name, self.runner.file

    def run(self, images: NDArray[np.uint8]) -> dict[str, Rows]:
        """Letterboxed RGB ``[B, 3, H, W]`` -> the rows of each head by its name.

        Raises:
            ValueError: when the array is not a uint8 batch of the manifest's input size.
        """
        wanted = (3, self.manifest.input.height, self.manifest.input.width)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted or len(images) < 1:
            raise ValueError(
                f"the graph takes uint8 [B, {wanted[0]}, {wanted[1]}, {wanted[2]}], not {images.dtype} {images.shape}"
            )
        found = self.runner.run(images)
        return {
            head.name: tuple(found[self.manifest.prefix(head) + output] for output in OUTPUTS)
            for head in self.manifest.heads
        }


def known_backends() -> list[str]:
    """Names that every installation knows; what each needs is asked when it is opened."""
    modules = {module.name for module in pkgutil.iter_modules(backends.__path__)} - {ONNX_RUNTIME}
    return sorted(modules | SHORT.keys())


def candidates(manifest: BundleManifest) -> tuple[list[str], dict[str, str]]:
    """Backends that might run a bundle on this machine, and why others cannot, by their names."""
    found: list[str] = []
    absent: dict[str, str] = {}
    for entry in pkgutil.iter_modules(backends.__path__):
        try:
            module = importlib.import_module(f"{backends.__name__}.{entry.name}")
            found += module.candidates(manifest) if hasattr(module, "candidates") else []
        except UserError as error:
            absent[entry.name] = str(error)
    return found, absent


def _module_of(backend: str) -> tuple[str, str]:
    """The file in ``backends/`` that a name belongs to, and what it calls it."""
    if backend == AUTO:
        raise UserError(
            f"{AUTO} measures and chooses, which Detector.load does; name one of {', '.join(known_backends())}."
        )
    name, colon, device = backend.partition(":")
    if name in SHORT:
        return ONNX_RUNTIME, f"{SHORT[name]}{colon}{device}"
    return (name if name in known_backends() else ONNX_RUNTIME), backend
