"""Tensors with a JSON description in one safetensors file, sealed by a checksum: checkpoints, and what a fit keeps.

The checksum stands in the file's own metadata, so that the two cannot part, and covers all that the file says.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from detheads.foundation.atomic import write_bytes
from detheads.foundation.errors import UserError
from detheads.foundation.reading import parse_json


def write_sealed(path: Path, kind: str, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write atomically. ``kind`` names the format, so that one file is not taken for another."""
    # Some tensors share memory or are views, which the file format refuses.
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps(description, ensure_ascii=False, allow_nan=False)
    # One key, because safetensors writes several in any order and equal content should make equal files.
    write_bytes(path, serialise(copies, {kind: f"{_digest(text, copies)} {text}"}))


def read_sealed(path: Path, kind: str, cure: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of a sealed file.

    Args:
        cure: what the user should do when the file is missing, damaged or something else, as the end of a sentence.

    Raises:
        UserError: in those cases.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; {cure}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, AttributeError, ValueError) as error:  # the latter two: a type that torch does not have
        raise UserError(f"{path} is damaged ({error}); {cure}.") from None
    if kind not in metadata:
        raise UserError(f"{path} is another kind of file; {cure}.")
    digest, _, text = metadata[kind].partition(" ")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise UserError(f"{path} has no checksum: it was altered, or an earlier version wrote it; {cure}.")
    if digest != _digest(text, tensors):
        raise UserError(f"{path} is damaged (its checksum differs); {cure}.")
    description = parse_json(text.encode(), path)
    if not isinstance(description, dict):
        raise UserError(f"{path} does not describe itself; {cure}.")
    return description, tensors


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that the file says."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
