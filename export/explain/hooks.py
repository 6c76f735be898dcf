"""The inside of PyTorch: what each module gives, taken by forward hooks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass
class Taken:
    """Tensors by module path, one list a module over all its calls, in order; ``order`` is that of the last calls."""

    tensors: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)


def paths(backbone: nn.Module, head: nn.Module, name: str) -> dict[str, nn.Module]:
    """All modules as the graph's nodes call them: ``backbone.maps...`` and ``NAME.box_tower...``."""
    found: dict[str, nn.Module] = {}
    for root, module in (("backbone", backbone), (name, head)):
        for path, inner in module.named_modules():
            found[f"{root}.{path}" if path else root] = inner
    return found


@contextmanager
def taking(modules: Mapping[str, nn.Module], wanted: Callable[[str], bool]) -> Iterator[Taken]:
    """Take what the wanted modules give during the block, copied: a module behind may overwrite it in place."""
    taken = Taken()

    def hook(path: str) -> Callable[..., None]:
        def take(module: nn.Module, inputs: Any, output: Any) -> None:
            arrays = [tensor.detach().float().cpu().numpy().copy() for tensor in floats(output)]
            taken.tensors.setdefault(path, []).extend(arrays)

        return take

    with ExitStack() as stack:
        for path, module in modules.items():
            if wanted(path):
                stack.callback(module.register_forward_hook(hook(path)).remove)
        yield taken


def floats(output: Any) -> Iterator[Tensor]:
    """The float tensors in whatever a module gives."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from floats(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from floats(value)
    elif is_dataclass(output):
        for entry in fields(output):
            yield from floats(getattr(output, entry.name))


def parameters(modules: Mapping[str, nn.Module], module: str) -> dict[str, NDArray[np.float32]]:
    """Weights and buffers of one module and of those inside it, by full path."""
    with torch.no_grad():
        return {
            f"{module}.{name}": tensor.detach().float().cpu().numpy()
            for name, tensor in modules[module].state_dict(keep_vars=True).items()
            if tensor.is_floating_point()
        }
